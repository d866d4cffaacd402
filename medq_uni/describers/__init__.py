"""Who says what is wrong with a slice: records, models of ours, chat servers."""
