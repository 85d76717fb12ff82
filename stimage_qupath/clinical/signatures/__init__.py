"""Published signatures of patients, by the algorithms of their papers, and their spread on predicted expression."""
