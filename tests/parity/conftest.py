import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny():
    from tiny import Tiny

    return Tiny()


@pytest.fixture(scope="session")
def tiny_v():
    from tiny import Tiny

    return Tiny(prediction_type="v_prediction", seed=1)


@pytest.fixture(scope="session")
def tiny_inpaint():
    from tiny import Tiny

    return Tiny(in_channels=9, seed=2)


@pytest.fixture(scope="session")
def tiny_zero_snr():
    from tiny import Tiny

    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return Tiny(prediction_type="v_prediction", seed=3, scheduler=zero_snr)


@pytest.fixture(scope="session")
def tiny_guided():
    from tiny import Tiny

    return Tiny(guidance_width=32, seed=4)
