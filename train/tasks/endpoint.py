"""The training task of a model behind an API endpoint: nothing is trained, only the item table is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from rbserve.core.tasks import CTR
from rbserve.core.types import ModelSpec, Progress
from rbserve.data.dataset import Dataset
from rbserve.models.configs import EndpointConfig
from rbserve.runtimes.endpoint_client import checked_url
from rbserve.train.fitting.loop import Rows
from rbserve.train.tasks.language import check_texts


def make(spec: ModelSpec, dataset: Dataset, progress: Progress) -> tuple[nn.Module, EndpointTask]:
    """No weights, and no rows. UsageError for an address that cannot be one."""
    del progress
    check_texts(spec, dataset)
    assert isinstance(spec.config, EndpointConfig)
    checked_url(spec.config.api_base)
    return nn.Identity(), EndpointTask()


class EndpointTask:
    """A training task without rows."""

    metric = CTR.metric
    rows = 0

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Never called: there are no training rows."""
        raise NotImplementedError

    def validate(self, model: nn.Module) -> float:
        """Never called: there are no epochs."""
        raise NotImplementedError

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """No weights."""
        return model.state_dict()

    def save(self, folder: Path) -> None:
        """Writes nothing: the texts are in the item table."""
