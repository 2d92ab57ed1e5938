"""The stdio door: a file that runs alone and knows nothing of the gateway's code."""
