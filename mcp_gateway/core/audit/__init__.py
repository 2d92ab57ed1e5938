"""Who changed what of the operator's, when, from where, and how it was before."""
