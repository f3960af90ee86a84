"""Programs: a step traced from forward mathematics, differentiated, fused and planned; each stage is one short module."""
