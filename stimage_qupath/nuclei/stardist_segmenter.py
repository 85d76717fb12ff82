"""Nuclei by a StarDist model in torch; geometry, suppression and rendering are the ``stardist`` package's own."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from stardist.geometry import polygons_to_label
from stardist.nms import non_maximum_suppression_sparse

from stimage_qupath.errors import UnknownModelError
from stimage_qupath.nuclei.nuclei_model import is_nuclei_model, load_nuclei_model
from stimage_qupath.nuclei.sampling import tissue_samples
from stimage_qupath.nuclei.stardist_network import StarDistNetwork, load_network
from stimage_qupath.nuclei.stardist_strips import candidates
from stimage_qupath.results import Region
from stimage_qupath.slide.base import Slide

MPP: Final = 0.5
"""Pixel size that H&E models of StarDist are trained at."""
HALO_UM: Final = 48.0
"""Two large nuclei, and the reach of a U-Net of depth 3 on a grid of 2."""
LEAST_DISTANCE_PX: Final = 1e-3  # as the original, so that no polygon is degenerate
RIM: Final = 2
"""Grid points along the border of the result that hold no centre, as in the original."""
PERCENTILES: Final = (1.0, 99.8)
DEFAULT_THRESHOLDS: Final = {"prob": 0.5, "nms": 0.4}


@dataclass(frozen=True, slots=True)
class StarDistSegmenter:
    """A StarDist 2D model. A :class:`~stimage_qupath.nuclei.segmenter.Segmenter`.

    Attributes
    ----------
    network
        The network, on its device.
    prob_threshold, nms_threshold
        Least probability of a nucleus, and overlap (of the smaller) from which the less probable of two goes.
    device
        Where the network runs.
    name, mpp, halo_um
        As every segmenter has them.
    bfloat16
        Convolve in bfloat16: about twice as fast on processors and GPUs that have it, not the same to the last digit.
    """

    network: StarDistNetwork
    prob_threshold: float
    nms_threshold: float
    device: torch.device
    name: str = "stardist"
    mpp: float = MPP
    halo_um: float = HALO_UM
    bfloat16: bool = False

    @property
    def stride(self) -> int:
        """Working pixels by which blocks must be apart, so that the pooling falls on the same pixels in each."""
        return math.lcm(*self.network.config.divisor)

    @property
    def identity(self) -> str:
        """Return a hash of the weights, with the thresholds."""
        weights = hashlib.sha256()
        for name, values in sorted(self.network.state_dict().items()):
            weights.update(name.encode() + values.cpu().contiguous().numpy().tobytes())
        chosen = (self.network.config, self.prob_threshold, self.nms_threshold, self.mpp, self.halo_um, self.bfloat16)
        return f"{weights.hexdigest()} {chosen} {self.device.type}"

    @classmethod
    def load(cls, folder: Path, *, device: torch.device) -> StarDistSegmenter:
        """Load a model folder: of ``train-nuclei`` (``model.json``), or of StarDist itself.

        The latter holds ``config.json``, ``weights_best.h5`` and ``thresholds.json``.

        Raises
        ------
        UnknownModelError
            The folder is not a StarDist 2D model of RGB images.
        """
        if is_nuclei_model(folder):
            network, card = load_nuclei_model(folder)
            thresholds, mpp = card["thresholds"], float(card["mpp"])
        else:
            network, thresholds, mpp = load_network(folder), _thresholds(folder), MPP
        if network.config.n_channel_in != 3:
            msg = f"expected a StarDist model of RGB images, found {network.config.n_channel_in} channels in {folder}"
            raise UnknownModelError(msg)
        prob, nms = float(thresholds["prob"]), float(thresholds["nms"])
        network = network.to(device).to(memory_format=torch.channels_last)  # convolves 1.5 times as fast on the CPU
        return cls(network, prob, nms, device, mpp=mpp)

    def calibrate(self, slide: Slide, mpp: float, regions: Sequence[Region]) -> BoundStarDistSegmenter:
        """Measure the slide's 1st and 99.8th percentile of intensity over samples of its tissue.

        StarDist normalises each image by those; a block of a slide has to be normalised by the slide's, or the same
        nucleus would look different in two blocks. ``regions`` are not looked at.
        """
        samples = [rgb.reshape(-1, 3) for rgb, _ in tissue_samples(slide, mpp=mpp, working_mpp=self.mpp)]
        if not samples:
            return BoundStarDistSegmenter(self, low=0.0, high=255.0)
        low, high = np.percentile(np.concatenate(samples), PERCENTILES)
        return BoundStarDistSegmenter(self, low=float(low), high=float(max(high, low + 1)))


def _thresholds(folder: Path) -> dict[str, float]:
    """Return the thresholds of a folder in StarDist's own layout, which may have none."""
    path = folder / "thresholds.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else DEFAULT_THRESHOLDS


@dataclass(frozen=True, slots=True)
class BoundStarDistSegmenter:
    """A StarDist model with the intensity range of one slide.

    Attributes
    ----------
    segmenter
        The model.
    low, high
        Grey levels that become 0 and 1.
    """

    segmenter: StarDistSegmenter
    low: float
    high: float

    def label(self, rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Label the nuclei of one block; see :class:`~stimage_qupath.nuclei.segmenter.BoundSegmenter`."""
        network = self.segmenter.network
        if type(network) is not StarDistNetwork or not network.config.unet_n_depth:  # no layers that could be cut
            return self.rendered(*self.predict(rgb), rgb.shape[:2])
        with torch.autocast(self.segmenter.device.type, dtype=torch.bfloat16, enabled=self.segmenter.bfloat16):
            found = candidates(network, self._input(rgb), threshold=self.segmenter.prob_threshold, rim=RIM)
        prob, dist = found.prob.cpu().numpy(), np.maximum(found.dist.cpu().numpy(), LEAST_DISTANCE_PX)
        points = torch.stack([found.rows, found.cols], dim=1).cpu().numpy() * np.array(network.config.grid)
        return self._without_overlap(points, prob, dist, rgb.shape[:2])

    def rendered(
        self, prob: NDArray[np.float32], dist: NDArray[np.float32], shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """Return the nuclei of what the network said, as a label image of ``shape`` (rows, columns)."""
        # Candidates as the original takes them: no centre on the rim of the result, none in the padding.
        rim = np.pad(np.ones(tuple(n - 2 * RIM for n in prob.shape), dtype=bool), RIM)
        rows, columns = np.nonzero(rim & (prob > self.segmenter.prob_threshold))
        points = np.stack([rows, columns], axis=1) * np.array(self.segmenter.network.config.grid)
        return self._without_overlap(points, prob[rows, columns], dist[rows, columns], shape)

    def _without_overlap(
        self, points: NDArray[np.int64], prob: NDArray[np.float32], dist: NDArray[np.float32], shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """Return the nuclei of the candidates that no more probable one overlaps, as a label image."""
        inside = (points < shape).all(axis=1)
        if not inside.any():
            return np.zeros(shape, dtype=np.int32)
        centres, kept_prob, kept_dist, _ = non_maximum_suppression_sparse(
            dist[inside], prob[inside], points[inside], nms_thresh=self.segmenter.nms_threshold
        )
        return np.asarray(polygons_to_label(kept_dist, centres, shape=shape, prob=kept_prob), dtype=np.int32)

    def predict(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return probability (row, column) and distances (row, column, ray) on the network's grid.

        The image is padded at its right and bottom by reflection to what the network can halve; so are the results.
        """
        with torch.inference_mode():
            prob, dist = self.segmenter.network(self._input(rgb))
        return prob[0].cpu().numpy(), np.maximum(dist[0].cpu().numpy(), LEAST_DISTANCE_PX)

    def _input(self, rgb: NDArray[np.uint8]) -> torch.Tensor:
        """Return the image as the network takes it, (1, channel, row, column), channels last in memory."""
        height, width = rgb.shape[:2]
        down, across = self.segmenter.network.config.divisor
        padded = np.pad(rgb, ((0, -height % down), (0, -width % across), (0, 0)), mode="reflect")
        image = torch.from_numpy(padded[None]).to(self.segmenter.device, torch.float32)
        return image.sub_(self.low).div_(self.high - self.low).permute(0, 3, 1, 2)
