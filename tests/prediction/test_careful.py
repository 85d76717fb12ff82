from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stimage_qupath.errors import DeviceMemoryError, UnknownModelError
from stimage_qupath.prediction.careful import CarefulEncoder
from stimage_qupath.results import never_cancelled


class Hungry:
    """An encoder that holds ``room`` tiles on each kind of device and notes what it was asked for."""

    def __init__(self, error, **room):
        self.card = SimpleNamespace(name="hungry", width=2)
        self.room, self.error, self.asked = room, error, []

    def encode(self, image, centres, *, device, batch_size, cancelled):
        self.asked.append((device.type, batch_size))
        if batch_size > self.room[device.type]:
            raise self.error
        return np.stack([centres[:, 0], centres[:, 1]], axis=1).astype(np.float32)


CENTRES = np.arange(20.0).reshape(10, 2)


def encode(encoder, device="cpu", batch_size=16, centres=CENTRES):
    image = np.zeros((4, 4, 3), np.uint8)
    return encoder.encode(image, centres, device=torch.device(device), batch_size=batch_size, cancelled=never_cancelled)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory"), MemoryError(),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
)  # fmt: skip
def test_half_the_batch_until_it_fits_and_then_at_once(error):
    hungry = Hungry(error, cpu=5)
    careful = CarefulEncoder(hungry)
    np.testing.assert_array_equal(encode(careful), CENTRES.astype(np.float32))
    assert hungry.asked == [("cpu", 16), ("cpu", 8), ("cpu", 4)]
    encode(careful)
    assert hungry.asked[3:] == [("cpu", 4)]
    assert careful.card is hungry.card


def test_a_device_that_holds_no_tile_is_given_up_for_the_cpu():
    hungry = Hungry(torch.OutOfMemoryError("CUDA out of memory"), meta=0, cpu=100)
    np.testing.assert_array_equal(encode(CarefulEncoder(hungry), "meta", 4), CENTRES.astype(np.float32))
    assert hungry.asked == [("meta", 4), ("meta", 2), ("meta", 1), ("cpu", 4)]


def test_no_room_anywhere_is_one_sentence():
    with pytest.raises(DeviceMemoryError, match="one tile of hungry on the CPU"):
        encode(CarefulEncoder(Hungry(MemoryError(), cpu=0)))


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        encode(CarefulEncoder(Hungry(RuntimeError("shapes do not fit"), cpu=0)))


def test_a_feature_that_is_no_number_is_refused():
    centres = CENTRES.copy()
    centres[3, 1] = np.nan
    with pytest.raises(UnknownModelError, match="found NaN or infinity in 1 of 10 windows"):
        encode(CarefulEncoder(Hungry(None, cpu=99)), centres=centres)
