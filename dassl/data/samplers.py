"""The order in which a loader takes images."""

from torch.utils.data import RandomSampler, SequentialSampler

from dassl.utils import check_availability

SAMPLERS = {"RandomSampler": RandomSampler, "SequentialSampler": SequentialSampler}


def build_sampler(sampler_type, cfg=None, data_source=None, batch_size=32, n_domain=0, n_ins=16):
    """Make the sampler of that name over `data_source`.

    The other arguments are what samplers by class or by domain need; trainers of other repositories pass them.

    Raises:
        UserError: the name is unknown.
    """
    check_availability(sampler_type, SAMPLERS, "sampler (DATALOADER.*.SAMPLER)")
    return SAMPLERS[sampler_type](data_source)
