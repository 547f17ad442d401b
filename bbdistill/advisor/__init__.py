"""`bbdistill advise`: which recipe fits a task, measured on a small sample under a spend cap.

    advise    the verb: measures, decides, writes a task.toml          ask       the teacher's answers, under the cap
    decide    the rule: `Findings` -> `Advice`; pure                   rollouts  the student before training
    reasons   what an advice says; pure                                checked   the verifier, asked twice
    trust     whether the verifier may be trusted; pure                probes    damaged and misplaced answers
    findings  what was measured, and its formulas; pure                costs     of each recipe
    page      the advice as text

The belief behind the rule: supervised training on good answers of the task's own kind is the default, on
the teacher's distributions where it gives them. A verifier that can be trusted earns more: drafts corrected until they
pass, or candidates filtered. A reward alone carries at most one bit per rollout, and none where the student never
passes. Neither answers nor a verifier: that is a problem of the data.
"""
