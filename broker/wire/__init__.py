"""What crosses the wire, as pure values: topics, messages, chunks, codecs."""
