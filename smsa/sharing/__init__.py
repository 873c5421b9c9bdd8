"""A finished model for others: card, Hub, exports."""
