"""Every file of a data set looked at: facts, copies, leaks, what is broken. Not here: shortcuts (evaluate)."""
