"""What is watched: one row per way in which a run goes wrong, from which level on, and why that level. Data only.

Levels without a source are estimates of ours. Only what does not mend itself, and is not ended elsewhere, has a stop.
"""

from bbdistill.levels import Level, Monitor

SLOWER = "lower `train.policy_learning_rate`, or raise `policy.kl_coef`"
HONEST = "lower `reward.discriminator`, or raise `reward.verifier` or `feedback.preferences`"

MONITORS = (
    # No value is healthy for all tasks: what counts is the share of the start that is left. Reward is bought with
    # entropy H, as b - a e^H (arXiv 2505.22617), so that nothing is gained once it is spent. The figure is minus the
    # mean log-prob of what was sampled, off by up to a third in a step of a few hundred tokens. A student that starts
    # under 0.1 nats knows one form of answer and has little to lose: there `equal_rewards` says when it is over.
    Monitor(
        name="low_entropy",
        key="rollout/entropy",
        beyond="below",
        of="multiple",
        over=3,
        warn=Level(at=0.5, steps=2, least=0.05),
        stop=Level(at=0.2, steps=2, least=0.1),
        says=(
            "the student's entropy fell to {value:.3f} nats per token from {start:.3f} at the start (limit "
            "{limit:.3f}), so that it tries little new and can gain little more"
        ),
        do="lower `train.policy_learning_rate`, or `train.sft_weight` where corrections are imitated too",
    ),
    # Twice the start is noise, not exploration, once it is also 0.3 nats more: a student that starts near 0, warmed up
    # on one form of answer, may treble within a few healthy steps. The start may be low by chance, so that the warning
    # stands close to the stop.
    Monitor(
        name="high_entropy",
        key="rollout/entropy",
        beyond="above",
        of="multiple",
        over=5,
        warn=Level(at=1.75, least=0.15),
        stop=Level(at=2.0, least=0.3),
        says=(
            "the student's entropy rose to {value:.3f} nats per token from {start:.3f} at the start (limit "
            "{limit:.3f}), so that its answers turn into noise"
        ),
        do=SLOWER,
    ),
    # A warmed-up student starts away from the base, so that only what is added counts. A nat per token more means that
    # the base finds every token e times less likely than before: little of what it knew can be left (our estimate).
    Monitor(
        name="kl",
        key="policy/kl",
        beyond="above",
        of="multiple",
        over=3,
        warn=Level(at=2.0, steps=2, least=0.2),
        stop=Level(at=5.0, steps=2, least=1.0),
        says=(
            "the student is {value:.2f} nats per token away from the base, {start:.2f} at the start (limit "
            "{limit:.2f}), and forgets what the base knew"
        ),
        do=SLOWER,
    ),
    # The arithmetic of bfloat16 gives up to 0.04 on average, and 0.3 for one token. Means over all tokens of a step
    # waver little: one step is enough.
    Monitor(
        name="mismatch",
        key="policy/mismatch",
        beyond="above",
        warn=Level(at=0.1, steps=1),
        stop=Level(at=0.3, steps=1),
        says=(
            "trainer and sampler differ by {value:.3f} nats per token (limit {limit:.2f}; bfloat16 alone gives up to "
            "0.04), so that the student learns from answers of another policy"
        ),
        do=(
            "look for `student.temperature` or `student.top_p` other than 1, sampling with merged weights, or a "
            "`train.lag` that is too long"
        ),
    ),
    # A weight is cut at 2, which bfloat16 reaches for no token. One token of a hundred is a policy that moves away;
    # with one of ten the gradient is no longer that of the reward (our estimate).
    Monitor(
        name="cut_weights",
        key="policy/tis_clip_fraction",
        beyond="above",
        warn=Level(at=0.01, steps=2),
        stop=Level(at=0.1, steps=2),
        says="the weight between trainer and sampler is cut for {percent:.1f} % of the tokens: the gradient is biased",
        do=(
            "shorten `train.lag`, lower `train.policy_learning_rate`, or set `student.temperature = 1` and "
            "`student.top_p = 1`"
        ),
    ),
    # 65 to 85 % is where others who trained such a pair kept it. A step has a few dozen pairs, each worth some percent.
    # Well under half, it is not weak but wrong: what it rewards is worse.
    Monitor(
        name="weak_discriminator",
        key="discriminator/accuracy",
        beyond="below",
        over=5,
        warn=Level(at=0.65, steps=3),
        stop=Level(at=0.3, steps=5),
        says=(
            "the discriminator is right about {percent:.0f} % of the pairs (65 to 85 are healthy), so that its reward "
            "says little, and below 50 the opposite"
        ),
        do="raise `discriminator.learning_rate` or `discriminator.warmup_steps`, or lower `train.policy_learning_rate`",
    ),
    # At 99 % (a public copy of GAD was stuck over 95) it knows the student by a shortcut, such as length or form, and
    # all of the student's answers are alike to it. That can pass, so it takes ten steps to be called lost.
    Monitor(
        name="strong_discriminator",
        key="discriminator/accuracy",
        beyond="above",
        over=5,
        warn=Level(at=0.85, steps=3),
        stop=Level(at=0.98, steps=10),
        says=(
            "the discriminator is right about {percent:.0f} % of the pairs (65 to 85 are healthy), so that no answer of"
            " the student comes near and its reward says nothing"
        ),
        do=(
            "lower `discriminator.learning_rate` or `discriminator.warmup_steps`, and see by what it tells them apart "
            "(length, form, end)"
        ),
    ),
    # GAD's known failure: its students end up to a third longer than their teacher, and four times as long once they
    # have found out a discriminator that is not trained on (arXiv 2511.10643). Half of that is where we stop.
    Monitor(
        name="longer_than_teacher",
        key="rollout/length_ratio",
        beyond="above",
        over=5,
        warn=Level(at=1.25, steps=2),
        stop=Level(at=2.0, steps=2),
        says=(
            "the student's answers are {value:.2f} times as long as the teacher's (limit {limit:.2f}), as happens where"
            " the discriminator takes length for quality"
        ),
        do=HONEST,
    ),
    Monitor(
        name="shorter_than_teacher",
        key="rollout/length_ratio",
        beyond="below",
        over=5,
        warn=Level(at=0.8, steps=2),
        stop=Level(at=0.5, steps=2),
        says=(
            "the student's answers are {value:.2f} times as long as the teacher's (limit {limit:.2f}), as happens where"
            " what is short is hard to fault"
        ),
        do=HONEST,
    ),
    # The same without answers of the teacher. Each step has other prompts, whose answers differ in length anyway: the
    # start and what follows are each off by some 8 %, so that the warning is wider.
    Monitor(
        name="longer",
        key="rollout/length",
        unless="rollout/length_ratio",
        beyond="above",
        of="multiple",
        over=5,
        warn=Level(at=1.5, steps=2),
        stop=Level(at=2.0, steps=2),
        says="the student's answers grew to {value:.0f} tokens from {start:.0f} at the start (limit {limit:.0f})",
        do=(
            "see whether the longer ones are better, else lower `reward.discriminator` or `train.policy_learning_rate`"
        ),
    ),
    Monitor(
        name="shorter",
        key="rollout/length",
        unless="rollout/length_ratio",
        beyond="below",
        of="multiple",
        over=5,
        warn=Level(at=0.67, steps=2),
        stop=Level(at=0.5, steps=2),
        says="the student's answers shrank to {value:.0f} tokens from {start:.0f} at the start (limit {limit:.0f})",
        do=("see whether they still say everything, else lower `reward.discriminator` or `train.policy_learning_rate`"),
    ),
    # In spreads of the frozen discriminator's scores. What really gets better does not get worse for an earlier judge:
    # one spread is a shift no sample of thirty makes by chance, three put all answers outside of what it knew.
    Monitor(
        name="tripwire",
        key="tripwire/gap",
        beyond="below",
        of="change",
        over=5,
        warn=Level(at=-1.0, steps=2),
        stop=Level(at=-3.0, steps=2),
        says=(
            "an earlier discriminator puts the student's answers at {value:+.2f} spreads from the teacher's, "
            "{start:+.2f} at the start (limit {limit:+.2f}): the student learns to please the newest discriminator, not"
            " to answer better"
        ),
        do="read some of the newest rollouts, raise `reward.verifier` or `feedback.preferences`",
    ),
    # Each step has other prompts, so that the mean of 32 answers to 8 of them is off by a tenth, and smoothed, beside a
    # start of five steps, by half as much. A quarter is worse than chance makes it; four tenths is not what was wanted.
    Monitor(
        name="worse",
        key="rollout/score",
        beyond="below",
        of="change",
        over=5,
        warn=Level(at=-0.25),
        stop=Level(at=-0.4),
        says=(
            "the verifier gives the student's answers {value:.2f}, {start:.2f} at the start (limit {limit:.2f}): what "
            "is rewarded is not what it checks"
        ),
        do="read some of the newest rollouts, raise `reward.verifier`, or lower `train.policy_learning_rate`",
    ),
    # The same few texts at every step, so that nothing but learning moves it: a fifth more was there 14 and 2 steps
    # before two runs failed (`scripts/show_failures.py`), while a healthy one, which imitates too, went slowly down. A
    # reward may well lead to other answers than the teacher's: only where what was taught is lost altogether does the
    # run end.
    Monitor(
        name="forgetting",
        key="demonstrations/nll",
        beyond="above",
        of="multiple",
        warn=Level(at=1.2, steps=1, least=0.01),
        stop=Level(at=4.0, least=0.3),
        says=(
            "the student gives the teacher's answers {value:.3f} nats per token, {start:.3f} at the start (limit "
            "{limit:.3f}): what is rewarded leads away from what it was taught"
        ),
        do=(
            "see whether the newest rollouts are better, else lower `train.policy_learning_rate`, or raise "
            "`train.sft_weight`"
        ),
    ),
    # A group whose rewards are equal has no advantage and teaches nothing. Half of them is half of the work wasted.
    Monitor(
        name="equal_rewards",
        key="reward/frac_zero_std",
        beyond="above",
        warn=Level(at=0.5),
        stop=Level(at=0.9),
        says="{percent:.0f} % of the groups have equal rewards, which teach nothing",
        do=(
            "raise `train.group_size`, or choose prompts that the student neither always nor never gets right, and "
            "that the verifier can judge"
        ),
    ),
    # Some form repeats itself: what counts is what is added. A tenth more shows in reading, three tenths is a loop.
    Monitor(
        name="repetition",
        key="rollout/repetition",
        beyond="above",
        of="change",
        over=3,
        warn=Level(at=0.1, steps=2),
        stop=Level(at=0.3, steps=2),
        says=(
            "a share of {value:.2f} of the runs of four tokens stood in the same answer before, {start:.2f} at the "
            "start (limit {limit:.2f}): the student goes round in circles"
        ),
        do=SLOWER,
    ),
    # A cut answer is judged for what it lacks. Past three of four, rewards say where the limit is and nothing else.
    Monitor(
        name="truncation",
        key="rollout/truncated",
        beyond="above",
        warn=Level(at=0.25),
        stop=Level(at=0.75),
        says="{percent:.0f} % of the answers were cut at `student.max_new_tokens`, and are rewarded for what they lack",
        do="raise it, or see why they do not end",
    ),
    # A student that answers with advice it never saw has learned the wrong thing from its advised self (arXiv
    # 2604.03128). By chance docstrings of Python's library share 2 % of such runs with 800 pieces of 40 words from
    # other modules, and 4 % with 1,600; texts about a single subject may share twice as many (our estimate).
    Monitor(
        name="leak",
        key="coach/leak",
        beyond="above",
        over=3,
        warn=Level(at=0.1, steps=2),
        stop=Level(at=0.25, steps=2),
        says=(
            "{percent:.0f} % of what the student says, four words at a time, stands in advice of the coach that it was "
            "not shown and not in its prompt: it quotes the advice instead of following it"
        ),
        do="read `rollouts/` beside `coachings/`, and lower `train.policy_learning_rate` or `policy.credit_clip`",
    ),
    # Two tokenizers over one text always fit; what does not is a text that somebody changes on its way. Level of ours.
    Monitor(
        name="unaligned",
        key="distill/unaligned",
        beyond="above",
        over=3,
        rewarded=False,
        warn=Level(at=0.2, steps=2),
        stop=Level(at=0.9, steps=2),
        says=(
            "the teacher's tokens spell another text than the student's in {percent:.0f} % of the scored answers, which"
            " teach nothing"
        ),
        do="see whether a tokenizer or the server changes spaces, line ends or case, or use the recipe `sft`",
    ),
    # What is not answered is left out, so it costs money and no bias; the run's own limit (half, by default) ends it.
    Monitor(
        name="abstentions",
        key="teacher/abstain_rate",
        beyond="above",
        over=3,
        rewarded=False,
        warn=Level(at=0.2, steps=2),
        says=(
            "the teacher gave nothing usable in {percent:.0f} % of its calls; above `feedback.max_abstain_rate` the run"
            " ends"
        ),
        do="see why with `bbdistill cache list`",
    ),
    # A good judge contradicts itself in 22 to 35 % of pairs (GPT-4 in arXiv 2306.05685); past that, look for another.
    # What flips is a tie, never trained on as a preference: it stops no run.
    Monitor(
        name="order_flips",
        key="teacher/order_flip_rate",
        beyond="above",
        over=10,
        rewarded=False,
        warn=Level(at=0.4),
        says="the judge contradicted itself in {percent:.0f} % of the pairs when their order changed",
        do="measure it with `bbdistill doctor --judge 30`, or name a better one in `[judge]`",
    ),
    # `train.lag` allows 4; weights between policies that far apart are mostly cut.
    Monitor(
        name="staleness",
        key="policy/staleness",
        beyond="above",
        warn=Level(at=4, steps=1),
        stop=Level(at=16, steps=1),
        says="rollouts are {value:.1f} updates old when they are trained on (limit {limit:.0f})",
        do="shorten `train.lag`",
    ),
    Monitor(
        name="spend",
        key="teacher/spent_share",
        beyond="above",
        rewarded=False,
        warn=Level(at=0.8, steps=1),
        says="{percent:.0f} % of the dollars are spent, and at the cap the run ends (it can be resumed)",
        do="raise `teacher.max_usd` or `--max-usd` if it should go on",
    ),
)
