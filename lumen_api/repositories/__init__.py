"""Hand-written SQL. A function is one statement: it takes the connection first, commits nothing, knows no HTTP."""
