from server.api.health import judge
from server.fleet.health import Loading, WorkerHealth, WorkerState


def worker(**changes):
    usual = {
        "name": "worker-0",
        "device": "cuda:0",
        "device_name": "A",
        "state": WorkerState.READY,
        "pid": 1,
        "models": ("m",),
        "loading": {},
        "failed": {},
        "in_flight": 0,
        "waiting": 0,
        "restarts": 0,
        "reason": None,
    }
    return WorkerHealth(**{**usual, **changes})


def verdict(*workers, draining=False):
    found = judge("m", workers, draining=draining)
    return found.ready, found.reason


def test_ready_needs_one_worker_that_has_the_default_model():
    assert verdict(worker()) == (True, "ready")
    assert verdict(worker(state=WorkerState.BUSY), worker(models=(), state=WorkerState.FAILED)) == (True, "ready")


def test_the_reason_says_what_is_missing():
    assert verdict(worker(), draining=True) == (False, "The server is shutting down.")
    assert verdict(worker(models=(), state=WorkerState.STARTING)) == (False, "The workers are starting.")
    loading = worker(models=(), state=WorkerState.STARTING, loading={"m": Loading("unet", 0.4)})
    assert verdict(loading) == (False, "Model 'm' is loading (40%).")
    assert judge("m", [loading], draining=False).loading == 0.4
    broken = worker(models=(), failed={"m": "no such folder"})
    assert verdict(broken) == (False, "Model 'm' could not be loaded: no such folder")
    dead = worker(models=(), state=WorkerState.FAILED, reason="killed by signal 9")
    assert verdict(dead) == (False, "No worker is up (worker-0 on cuda:0: killed by signal 9).")
