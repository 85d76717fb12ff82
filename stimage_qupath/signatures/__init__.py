"""Published gene signatures: what they are made of, which genes of a panel they meet, and their linear scores."""
