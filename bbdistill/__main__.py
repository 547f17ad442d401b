from bbdistill.cli import main

main()
