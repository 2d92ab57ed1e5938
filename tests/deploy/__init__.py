"""What is deployed: files of deploy/, looked at by the programs that others have for each kind of them."""
