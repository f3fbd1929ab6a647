"""The doctor: what each file of a data set holds, what cannot be used, and why."""
