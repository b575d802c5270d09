"""The plan of ``ztrooted.verify`` in words: number, name, and what must hold. Reports and docs use the same."""

PLAN: tuple[tuple[str, str], ...] = (
    ("bundle", "the file is a bundle, and every blob has the digest it is filed under"),
    ("checkpoint", "its checkpoint is of the anchored lineage, signed by the anchored log key"),
    ("seal", "the gateway's TPM quoted the anchored state over that checkpoint"),
    ("log_key", "the log key lives in that TPM, and signs in the anchored state only"),
    ("inclusion", "every record is in the tree that the checkpoint is about"),
    ("story", "the authorization's records are one unbroken, legal course from intent to end"),
    ("executor", "an anchored root vouches for the executor's TPM, its keys are what they should be, its id follows"),
    ("policies", "the policies and baselines that were applied had been activated and approved before"),
    ("quotes", "each piece of evidence was made for this purpose, this job and this authorization"),
    ("appraisals", "appraising the evidence again gives the recorded verdicts"),
    ("parents", "where it is a child, its parent had granted this and was live each time, and so on upwards"),
    ("decisions", "evaluating the dispatch policy again gives the recorded decisions, and they were followed"),
    (
        "artifacts",
        "the artifacts are those that were recorded, signed by keys that the log key introduced, in one chain",
    ),
    (
        "continuity",
        "between two good quotes no more time passed than the lease allowed; nothing was renewed without one",
    ),
    ("outcome", "what ended it is recorded, and if trust failed, the job was stopped"),
)
