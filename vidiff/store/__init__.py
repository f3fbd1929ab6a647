"""Where bytes are: files, parts of files and URLs; drafts, locks, hashes; JSON that cannot harm."""
