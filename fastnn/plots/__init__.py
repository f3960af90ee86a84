"""Pictures of trainings, models and searches. matplotlib is imported when something is drawn; it needs no display.

Every function draws into `ax` and returns it; without `ax`, into axes of a new figure that no window shows. `save(ax, path)`
writes its figure. `COLORS` are those of Okabe & Ito 2008, Color Universal Design, which everybody tells apart.
"""

from fastnn.plots.activations import activation
from fastnn.plots.curves import accuracy_curves, cost_curves, gradient_flow, learning_rate_finder
from fastnn.plots.images import feature_maps, filters, misclassified, most_activating, receptive_field, weights_as_images
from fastnn.plots.look import COLORS
from fastnn.plots.models import confusion_matrix, decision_boundary, weight_histograms
from fastnn.plots.saving import check, save
from fastnn.plots.searches import optimizer_paths, search_results

__all__ = [
    "COLORS",
    "accuracy_curves",
    "activation",
    "check",
    "confusion_matrix",
    "cost_curves",
    "decision_boundary",
    "feature_maps",
    "filters",
    "gradient_flow",
    "learning_rate_finder",
    "misclassified",
    "most_activating",
    "optimizer_paths",
    "receptive_field",
    "save",
    "search_results",
    "weight_histograms",
    "weights_as_images",
]
