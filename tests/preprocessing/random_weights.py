"""Files of annotators' weights with random numbers in them, in the layouts of the files that users download."""

import types
from functools import partial

import torch

from pipelines.preprocessing.annotators import annotator


def openpose_layers(network):
    """The published files leave the names of the network's blocks out."""
    return {name.partition(".")[2]: tensor for name, tensor in network.state_dict().items()}


def normal_bae():
    told = types.SimpleNamespace(mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7)
    return {"model": {f"module.{name}": tensor for name, tensor in annotator("normalbae").NNET(told).state_dict().items()}}


def zoe():
    module = annotator("zoe")
    return {"model": module.ZoeDepth.build_from_config(module.get_config("zoedepth", "infer")).state_dict()}


def midas():
    model = annotator("midas.midas.dpt_depth").DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True)
    return model.state_dict()


def leres():
    states = annotator("leres").RelDepthModel(backbone="resnext101").state_dict()
    return {"depth_model": {f"module.{name}": tensor for name, tensor in states.items()}}


def anime():
    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return annotator("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False).state_dict()


def pidinet():
    states = annotator("pidi").pidinet().state_dict()
    return {"state_dict": {f"module.{name}": tensor for name, tensor in states.items()}, "epoch": 3}


def lineart():
    return annotator("lineart").Generator(3, 1, 3).state_dict()


def ted():
    return annotator("teed.ted").TED().state_dict()


MAKERS = {
    "ControlNetHED.pth": lambda: annotator("hed").ControlNetHED_Apache2().state_dict(),
    "table5_pidinet.pth": pidinet,
    "sk_model.pth": lineart,
    "sk_model2.pth": lineart,
    "netG.pth": anime,
    "mlsd_large_512_fp32.pth": lambda: annotator("mlsd").MobileV2_MLSD_Large().state_dict(),
    "5_model.pth": ted,
    "Anyline/MTEED.pth": ted,
    "body_pose_model.pth": lambda: openpose_layers(annotator("open_pose.model").bodypose_model()),
    "hand_pose_model.pth": lambda: openpose_layers(annotator("open_pose.model").handpose_model()),
    "facenet.pth": lambda: annotator("open_pose.face").FaceNet().state_dict(),
    "dpt_hybrid-midas-501f0c75.pt": midas,
    "scannet.pt": normal_bae,
    "res101.pth": leres,
    "ZoeD_M12_N.pt": zoe,
    "checkpoints/sam_vit_b_01ec64.pth": lambda: annotator("segment_anything").sam_model_registry["vit_t"]().state_dict(),
}


def write(folder, name, seed=0):
    """The file ``name`` under ``folder``; the same seed gives the same numbers."""
    torch.manual_seed(seed)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(MAKERS[name](), path)
    return path
