"""Where bytes are: files, spans of files and URLs; drafts, locks, hashes; JSON that cannot harm."""
