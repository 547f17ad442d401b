"""Built-in examples: whole tasks that `bbdistill init --example NAME` writes into a directory. No torch."""
