"""Programs that tests run on several ranks, by `support.forked.on_ranks(ranks, NAME, *arguments)`."""
