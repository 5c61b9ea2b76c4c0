"""The command line: one file per verb. Heavy libraries are imported inside the verbs."""
