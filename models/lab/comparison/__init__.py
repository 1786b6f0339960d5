"""Systems that are trained in equal time and evaluated in one run."""
