"""A model behind an endpoint as a training task: there is nothing to learn, and nothing to keep but the item table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from rbserve.core.tasks import CTR
from rbserve.core.types import ModelSpec, Progress
from rbserve.data.dataset import Dataset
from rbserve.models.configs import EndpointConfig
from rbserve.runtimes.endpoint import checked_url
from rbserve.train.loop import Rows
from rbserve.train.tasks.language import check_texts


def make(spec: ModelSpec, dataset: Dataset, progress: Progress) -> tuple[nn.Module, EndpointTask]:
    """No weights, and no rows. UsageError for an address that cannot be one."""
    del progress
    check_texts(spec, dataset)
    assert isinstance(spec.config, EndpointConfig)
    checked_url(spec.config.api_base)
    return nn.Identity(), EndpointTask()


class EndpointTask:
    """Nothing is learnt."""

    metric = CTR.metric
    rows = 0

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Never asked: there are no rows."""
        raise NotImplementedError

    def validate(self, model: nn.Module) -> float:
        """Never asked: there are no epochs."""
        raise NotImplementedError

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """None."""
        return model.state_dict()

    def save(self, folder: Path) -> None:
        """Nothing: texts are in the item table."""
