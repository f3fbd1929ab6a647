"""What a run tells: metrics, charts and pages, and where else they go."""
