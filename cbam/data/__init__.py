"""Photos with what is known of them: classes, boxes."""
