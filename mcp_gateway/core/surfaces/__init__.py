"""What clients speak: how a request of each surface is read, its errors are worded, and its answers pass."""
