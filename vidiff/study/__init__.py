"""A study of what people prefer: blind pairs of clips on a local web page, votes in a file, and what they say."""
