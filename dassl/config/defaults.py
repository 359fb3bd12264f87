"""The toolbox's keys with their defaults. A trainer adds its own node under TRAINER."""

from yacs.config import CfgNode

_C = CfgNode()
_C.OUTPUT_DIR = "./output"  # results, logs and checkpoints; a run found there is continued
_C.RESUME = ""  # folder of a run to continue instead of OUTPUT_DIR; without a checkpoint, the run starts anew
_C.SEED = -1  # from 0: the run is repeatable; -1: it is random
_C.PROTOCOL = "published"  # published, or strict: the run has no validation images, so nothing is chosen on any
_C.USE_CUDA = True  # use a GPU if there is one, by CUDA or Apple's (MPS)
_C.VERBOSE = True  # print what is built

_C.INPUT = CfgNode()
_C.INPUT.SIZE = (224, 224)  # height, width
_C.INPUT.INTERPOLATION = "bilinear"  # nearest, bilinear or bicubic
_C.INPUT.EXIF = "auto"  # follow a file's orientation and colour profile: on, off, or auto (own images only)
_C.INPUT.BACKGROUND = "white"  # what transparent images are laid on: a colour by name or as #rrggbb
_C.INPUT.TRANSFORMS = ()  # names of dassl/data/transforms, which fixes their order
_C.INPUT.NO_TRANSFORM = False  # batches hold PIL images
_C.INPUT.LONG_NAMES = "stop"  # if a class name is too long for CLIP's context: stop, or truncate it with a warning
_C.INPUT.CACHE_VIEWS = 0  # views of each training image, encoded before training; 0: a new view in each epoch
_C.INPUT.FEATURE_STREAMS = ()  # streams of patch tokens to encode in the same pass, for runs that come later
_C.INPUT.FEATURE_CACHE = ""  # folder of features of test images, which runs and scripts.encode share; "": none
_C.INPUT.PIXEL_MEAN = [0.485, 0.456, 0.406]  # ImageNet's; "normalize" subtracts it
_C.INPUT.PIXEL_STD = [0.229, 0.224, 0.225]  # ImageNet's; "normalize" divides by it
_C.INPUT.RRCROP_SCALE = (0.08, 1.0)  # "random_resized_crop": smallest and largest share of the area
_C.INPUT.CROP_PADDING = 4  # "random_crop": pixels added at each side before cropping
_C.INPUT.CUTOUT_N = 1  # "cutout": number of holes
_C.INPUT.CUTOUT_LEN = 16  # "cutout": side of a hole in pixels
_C.INPUT.COLORJITTER_B = 0.4  # "colorjitter": brightness
_C.INPUT.COLORJITTER_C = 0.4  # "colorjitter": contrast
_C.INPUT.COLORJITTER_S = 0.4  # "colorjitter": saturation
_C.INPUT.COLORJITTER_H = 0.1  # "colorjitter": hue
_C.INPUT.RGS_P = 0.2  # "randomgrayscale": probability
_C.INPUT.GB_P = 0.5  # "gaussian_blur": probability
_C.INPUT.GB_K = 21  # "gaussian_blur": kernel size in pixels, odd
_C.INPUT.RANDAUGMENT_N = 2  # "randaugment": operations per image
_C.INPUT.RANDAUGMENT_M = 10  # "randaugment": magnitude of the operations, 0 to 30
_C.INPUT.GN_MEAN = 0.0  # "gaussian_noise": mean
_C.INPUT.GN_STD = 0.15  # "gaussian_noise": standard deviation

_C.DATASET = CfgNode()
_C.DATASET.ROOT = ""  # folder that holds the data sets
_C.DATASET.NAME = ""  # a registered reader
_C.DATASET.NUM_SHOTS = -1  # training images per class; below 1: all
_C.DATASET.FEW_IMAGES = "take"  # if a class has fewer training images than NUM_SHOTS: take all it has, or stop
_C.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base (first half of the classes) or new (the rest)
_C.DATASET.SOURCE_DOMAINS = ()  # domains of the training images, for readers with domains
_C.DATASET.TARGET_DOMAINS = ()  # domains of the test images

_C.DATALOADER = CfgNode()
_C.DATALOADER.NUM_WORKERS = 4  # processes that load images; 0 loads in the main one
_C.DATALOADER.ON_ERROR = "load"  # stop: at any damaged image; load: but take what is there of one that is cut off;
# skip: leave damaged images out; results.json counts them
_C.DATALOADER.REDUCED_JPEG = False  # decode large JPEGs at a fraction of their size: faster, but not the same pixels
_C.DATALOADER.K_TRANSFORMS = 1  # views of each training image; above 1, "img" is a list of them
_C.DATALOADER.RETURN_IMG0 = False  # add the image without augmentation to a batch, as "img0"
_C.DATALOADER.TRAIN_X = CfgNode()
_C.DATALOADER.TRAIN_X.SAMPLER = "RandomSampler"  # or SequentialSampler, RandomClassSampler
_C.DATALOADER.TRAIN_X.BATCH_SIZE = 32
_C.DATALOADER.TRAIN_X.N_INS = 16  # RandomClassSampler: images per class in a batch
_C.DATALOADER.TEST = CfgNode()
_C.DATALOADER.TEST.SAMPLER = "SequentialSampler"
_C.DATALOADER.TEST.BATCH_SIZE = 32

_C.MODEL = CfgNode()
_C.MODEL.BACKBONE = CfgNode()
_C.MODEL.BACKBONE.NAME = ""  # e.g. ViT-B/16, or a file of weights; the trainer checks it

_C.OPTIM = CfgNode()
_C.OPTIM.NAME = "adam"  # adam, amsgrad, sgd, rmsprop, radam or adamw
_C.OPTIM.LR = 0.0003
_C.OPTIM.WEIGHT_DECAY = 5e-4
_C.OPTIM.MOMENTUM = 0.9  # sgd, rmsprop
_C.OPTIM.SGD_DAMPNING = 0  # spelled so throughout the ecosystem
_C.OPTIM.SGD_NESTEROV = False
_C.OPTIM.RMSPROP_ALPHA = 0.99
_C.OPTIM.ADAM_BETA1 = 0.9  # adam, amsgrad, radam, adamw
_C.OPTIM.ADAM_BETA2 = 0.999
_C.OPTIM.EPS = 1e-8  # all but sgd; half-precision parameters need a larger one
_C.OPTIM.STAGED_LR = False  # train at LR * BASE_LR_MULT all children of the model but NEW_LAYERS
_C.OPTIM.NEW_LAYERS = ()
_C.OPTIM.BASE_LR_MULT = 0.1
_C.OPTIM.LR_SCHEDULER = "single_step"  # single_step, multi_step or cosine; a step is an epoch
_C.OPTIM.STEPSIZE = (-1,)  # single_step: epochs between steps, below 1: MAX_EPOCH; multi_step: epochs of the steps
_C.OPTIM.GAMMA = 0.1  # single_step, multi_step: factor of a step
_C.OPTIM.MAX_EPOCH = 10  # 0: the untrained model is tested
_C.OPTIM.WARMUP_EPOCH = -1  # epochs of warm-up; below 1: none
_C.OPTIM.WARMUP_TYPE = "linear"  # linear or constant
_C.OPTIM.WARMUP_CONS_LR = 1e-5  # constant: the learning rate
_C.OPTIM.WARMUP_MIN_LR = 1e-5  # linear: the learning rate of the first epoch
_C.OPTIM.WARMUP_RECOUNT = True  # the schedule starts at 0 after the warm-up; False: where that ends

_C.TRAIN = CfgNode()
_C.TRAIN.CHECKPOINT_FREQ = 0  # epochs between checkpoints; 0 or less: only the last epoch has one
_C.TRAIN.CHECKPOINT_MINUTES = 10.0  # minutes between checkpoints within an epoch; 0 or less: none
_C.TRAIN.PRINT_FREQ = 10  # batches between lines of the log; a shorter epoch has one line

_C.TEST = CfgNode()
_C.TEST.EVALUATOR = "Classification"
_C.TEST.PER_CLASS_RESULT = False  # print the accuracy of each class
_C.TEST.COMPUTE_CMAT = False  # write the confusion matrix to OUTPUT_DIR/cmat.pt
_C.TEST.DECIMALS = 1  # of printed percentages
_C.TEST.NO_TEST = False  # train only
_C.TEST.SPLIT = "test"  # the images to test on: test or val
_C.TEST.FINAL_MODEL = "last_step"  # last_step, or best_val: the best epoch on val

_C.TRAINER = CfgNode()
_C.TRAINER.NAME = ""  # a registered trainer
_C.TRAINER.MEMORY_BUDGET = 0.0  # GiB that prompts may keep for the backward pass; 0: half of the free memory

# Nothing here reads these. They stay because configs, flags and code of other repositories with this API use them.
_C.VERSION = 1
_C.DATALOADER.TRAIN_X.N_DOMAIN = 0  # domains in a batch
_C.MODEL.INIT_WEIGHTS = ""  # file of weights to start from
_C.MODEL.BACKBONE.PRETRAINED = True
_C.MODEL.HEAD = CfgNode()
_C.MODEL.HEAD.NAME = ""  # train.py --head


def get_cfg_default() -> CfgNode:
    """Return a fresh copy of the defaults."""
    return _C.clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Remove the nodes of all trainers but `trainer` from cfg.TRAINER."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key)
