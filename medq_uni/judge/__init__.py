"""How good descriptions are: aspects, a language-model judge, questions with choices, images out of scope."""
