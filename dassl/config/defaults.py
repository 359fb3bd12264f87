"""Every key of the toolbox with its default. A trainer adds its own node under TRAINER."""

from yacs.config import CfgNode

_C = CfgNode()
_C.VERSION = 1  # of this tree of keys
_C.OUTPUT_DIR = "./output"  # results, logs and checkpoints; a run found there is continued
_C.RESUME = ""  # folder of a run to continue instead of OUTPUT_DIR
_C.SEED = -1  # >= 0 makes runs repeatable, -1 leaves them random
_C.USE_CUDA = True  # use a GPU if there is one
_C.VERBOSE = True  # print what is built

_C.INPUT = CfgNode()
_C.INPUT.SIZE = (224, 224)  # height, width
_C.INPUT.INTERPOLATION = "bilinear"  # nearest, bilinear or bicubic
_C.INPUT.TRANSFORMS = ()  # names, see dassl/data/transforms; their order is fixed there
_C.INPUT.NO_TRANSFORM = False  # give PIL images to the trainer
_C.INPUT.LONG_NAMES = "stop"  # at a class name without room in CLIP's context: stop, or truncate it and tell
_C.INPUT.CACHE_VIEWS = 0  # views of a training image, encoded before training; 0: new ones each epoch
_C.INPUT.FEATURE_STREAMS = ()  # streams of patch tokens that other runs will read, encoded in the same pass
_C.INPUT.FEATURE_CACHE = ""  # folder where features of test images are kept for other runs; read by trainers
_C.INPUT.PIXEL_MEAN = [0.485, 0.456, 0.406]  # ImageNet's; "normalize" subtracts it
_C.INPUT.PIXEL_STD = [0.229, 0.224, 0.225]  # ImageNet's; "normalize" divides by it
_C.INPUT.RRCROP_SCALE = (0.08, 1.0)  # "random_resized_crop": smallest and largest share of the area
_C.INPUT.CROP_PADDING = 4  # "random_crop": pixels added at each side before
_C.INPUT.CUTOUT_N = 1  # "cutout": number of holes
_C.INPUT.CUTOUT_LEN = 16  # "cutout": side of a hole in pixels
_C.INPUT.COLORJITTER_B = 0.4  # "colorjitter": brightness
_C.INPUT.COLORJITTER_C = 0.4  # "colorjitter": contrast
_C.INPUT.COLORJITTER_S = 0.4  # "colorjitter": saturation
_C.INPUT.COLORJITTER_H = 0.1  # "colorjitter": hue
_C.INPUT.RGS_P = 0.2  # "randomgrayscale": probability
_C.INPUT.GB_P = 0.5  # "gaussian_blur": probability
_C.INPUT.RANDAUGMENT_N = 2  # "randaugment": operations of an image
_C.INPUT.RANDAUGMENT_M = 10  # and their magnitude, of 30
_C.INPUT.GN_MEAN = 0.0  # "gaussian_noise"
_C.INPUT.GN_STD = 0.15
_C.INPUT.GB_K = 21  # "gaussian_blur": kernel size, odd

_C.DATASET = CfgNode()
_C.DATASET.ROOT = ""  # folder that holds the data sets
_C.DATASET.NAME = ""  # a registered reader
_C.DATASET.NUM_SHOTS = -1  # training images per class; -1 takes all
_C.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base (first half of the classes) or new (the rest)
_C.DATASET.SOURCE_DOMAINS = ()  # for readers with domains
_C.DATASET.TARGET_DOMAINS = ()

_C.DATALOADER = CfgNode()
_C.DATALOADER.NUM_WORKERS = 4  # processes that load images; 0 loads in the main one
_C.DATALOADER.ON_ERROR = "stop"  # at an image that cannot be read: stop, or skip and count it
_C.DATALOADER.REDUCED_JPEG = False  # decode large JPEGs at a fraction of their size: faster, other pixels
_C.DATALOADER.K_TRANSFORMS = 1  # > 1 gives a list of that many views of each training image
_C.DATALOADER.RETURN_IMG0 = False  # also give the image without augmentation, as "img0"
_C.DATALOADER.TRAIN_X = CfgNode()
_C.DATALOADER.TRAIN_X.SAMPLER = "RandomSampler"  # or SequentialSampler, RandomClassSampler
_C.DATALOADER.TRAIN_X.BATCH_SIZE = 32
_C.DATALOADER.TRAIN_X.N_INS = 16  # RandomClassSampler: images of a class in a batch
_C.DATALOADER.TRAIN_X.N_DOMAIN = 0  # for samplers by domain of other repositories
_C.DATALOADER.TEST = CfgNode()
_C.DATALOADER.TEST.SAMPLER = "SequentialSampler"
_C.DATALOADER.TEST.BATCH_SIZE = 32

_C.MODEL = CfgNode()
_C.MODEL.INIT_WEIGHTS = ""  # file of weights to start from; read by trainers
_C.MODEL.BACKBONE = CfgNode()
_C.MODEL.BACKBONE.NAME = ""  # e.g. ViT-B/16; the trainer says which it takes
_C.MODEL.BACKBONE.PRETRAINED = True  # read by trainers
_C.MODEL.HEAD = CfgNode()
_C.MODEL.HEAD.NAME = ""  # read by trainers

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
_C.OPTIM.STAGED_LR = False  # LR * BASE_LR_MULT for all children but NEW_LAYERS
_C.OPTIM.NEW_LAYERS = ()
_C.OPTIM.BASE_LR_MULT = 0.1
_C.OPTIM.LR_SCHEDULER = "single_step"  # single_step, multi_step or cosine; a step is an epoch
_C.OPTIM.STEPSIZE = (-1,)  # single_step: the epochs of a step, < 1 means MAX_EPOCH; multi_step: milestones
_C.OPTIM.GAMMA = 0.1  # factor of a step
_C.OPTIM.MAX_EPOCH = 10
_C.OPTIM.WARMUP_EPOCH = -1  # > 0: so many epochs of warm-up come first
_C.OPTIM.WARMUP_TYPE = "linear"  # linear or constant
_C.OPTIM.WARMUP_CONS_LR = 1e-5  # constant: the learning rate
_C.OPTIM.WARMUP_MIN_LR = 1e-5  # linear: the learning rate of the first epoch
_C.OPTIM.WARMUP_RECOUNT = True  # the schedule starts at its epoch 0 after the warm-up

_C.TRAIN = CfgNode()
_C.TRAIN.CHECKPOINT_FREQ = 0  # epochs between checkpoints; 0 writes the last one only
_C.TRAIN.CHECKPOINT_MINUTES = 10.0  # also every so many minutes, between two steps; 0 never
_C.TRAIN.PRINT_FREQ = 10  # batches between lines; shorter epochs have one line

_C.TEST = CfgNode()
_C.TEST.EVALUATOR = "Classification"
_C.TEST.PER_CLASS_RESULT = False  # print the accuracy of each class
_C.TEST.COMPUTE_CMAT = False  # write the confusion matrix to OUTPUT_DIR/cmat.pt
_C.TEST.DECIMALS = 1  # of the percentages printed
_C.TEST.NO_TEST = False  # train only
_C.TEST.SPLIT = "test"  # test or val
_C.TEST.FINAL_MODEL = "last_step"  # last_step, or best_val: tested on val after every epoch, the best is kept

_C.TRAINER = CfgNode()
_C.TRAINER.NAME = ""  # a registered trainer
_C.TRAINER.MEMORY_BUDGET = 0.0  # GiB that prompts may keep for the backward pass; 0: half of what is free
