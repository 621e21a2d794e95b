"""Where the classes of different models meet: every model's are brought to the ids of the truth.

Classes are the same if id and name agree, or else the name alone. One that the truth lacks keeps an id of its own:
what is predicted as such is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .results import Category, Prediction

__all__ = ["Alignment", "align_classes", "translate"]


@dataclass(frozen=True)
class Alignment:
    """Ids that several models share.

    Attributes:
        categories: all classes: the truth's, then what only models have.
        ids: for each model, the dataset id of its own -> the shared id.
        strange: for each model, names of its classes that the truth lacks; none without a truth.
    """

    categories: Sequence[Category]
    ids: Sequence[Mapping[int, int]]
    strange: Sequence[Sequence[str]]


def align_classes(truth: Sequence[Category], models: Sequence[Sequence[Category]]) -> Alignment:
    """Bring the classes of models together.

    Args:
        truth: its classes; empty without one, and the models' make up the whole.
        models: the classes of each, under ids of its own dataset.
    """
    shared = {category.id: category for category in truth}
    by_name = {category.name: category.id for category in truth}
    known = set(shared)
    ids = []
    for categories in models:
        mapping = {}
        for category in categories:
            if category.id in shared and shared[category.id].name == category.name:
                mapping[category.id] = category.id
            elif category.name in by_name:
                mapping[category.id] = by_name[category.name]
            else:
                id_ = category.id if category.id not in shared else max(shared) + 1
                shared[id_] = replace(category, id=id_)
                mapping[category.id] = by_name[category.name] = id_
        ids.append(mapping)
    strange = [
        [category.name for category in categories if truth and mapping[category.id] not in known]
        for categories, mapping in zip(models, ids, strict=True)
    ]
    return Alignment(list(shared.values()), ids, strange)


def translate(prediction: Prediction, ids: Mapping[int, int], categories: Mapping[int, Category]) -> Prediction:
    """Return a prediction under shared ids; what is a thing is decided by the shared classes.

    Args:
        prediction: under ids of the model's own dataset.
        ids: own id -> shared id.
        categories: the shared classes by id.
    """
    segments = []
    for segment in prediction.segments:
        category = categories[ids[segment["category_id"]]]
        segments.append({**segment, "category_id": category.id, "isthing": category.isthing})
    instances = prediction.instances
    if instances is not None:
        instances = [{**instance, "category_id": ids[instance["category_id"]]} for instance in instances]
    return Prediction(prediction.segment_ids, segments, instances)
