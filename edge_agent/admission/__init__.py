"""What a board runs for a coordinator is looked at before it is loaded: graphs, without running or loading them."""
