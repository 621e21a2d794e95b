"""Where the classes of different models meet: every model's are brought to the ids of the truth.

Classes are the same if id and name agree, or else the name alone; COCO's endings "-other" and "-merged", which
Detectron2 drops in its "separated" form, don't count. A class that the truth lacks keeps an id of its own: what is
predicted as such is wrong.
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
    """

    categories: Sequence[Category]
    ids: Sequence[Mapping[int, int]]


def align_classes(truth: Sequence[Category], models: Sequence[Sequence[Category]]) -> Alignment:
    """Bring the classes of models together.

    Args:
        truth: its classes; empty without one, and the models' make up the whole.
        models: the classes of each, under ids of its own dataset.
    """
    shared = {category.id: category for category in truth}
    by_name = {_plain(category.name): category.id for category in truth}
    ids = []
    for categories in models:
        mapping = {}
        for category in categories:
            name = _plain(category.name)
            if category.id in shared and _plain(shared[category.id].name) == name:
                mapping[category.id] = category.id
            elif name in by_name:
                mapping[category.id] = by_name[name]
            else:
                id_ = category.id if category.id not in shared else max(shared) + 1
                shared[id_] = replace(category, id=id_)
                mapping[category.id] = by_name[name] = id_
        ids.append(mapping)
    return Alignment(list(shared.values()), ids)


def _plain(name: str) -> str:
    return name.replace("-other", "").replace("-merged", "")


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
