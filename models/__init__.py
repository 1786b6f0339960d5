"""The learning side: dataset, encoder, loss, training, export, evaluation, publishing. The only place with torch."""
