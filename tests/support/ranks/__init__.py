"""Programs that tests start on several ranks, by `support.torchrun.on_ranks(ranks, NAME, *arguments)`."""
