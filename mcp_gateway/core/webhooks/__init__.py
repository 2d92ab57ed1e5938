"""Events of accounts' money, told by signed HTTP to the operator and to accounts themselves."""
