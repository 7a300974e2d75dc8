"""Model cards: what is known of a trained model, and its weights at rest."""
