"""`torch.distributed.checkpoint` saves a state and loads it into a fresh regularizer."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from small_loop import equal_states, small_network, small_sampler, state_of, train

from wdpurify import PurifyRegularizer


def _made():
    torch.manual_seed(0)
    network = small_network()
    return network, PurifyRegularizer(network.features, small_sampler(), feature_dim=6, critic_lr=3e-2)


@pytest.mark.filterwarnings("ignore:torch.distributed is", "ignore:TypedStorage", "ignore::FutureWarning")
def test_a_fresh_regularizer_goes_on_from_a_distributed_checkpoint(tmp_path):
    whole, first, fresh = _made(), _made(), _made()
    train(*whole, 9)
    train(*first, 5)
    dcp.save({"network": first[0].state_dict(), "purify": first[1].state_dict()}, checkpoint_id=tmp_path)
    state = {"network": fresh[0].state_dict(), "purify": fresh[1].state_dict()}
    dcp.load(state, checkpoint_id=tmp_path)
    fresh[0].load_state_dict(state["network"])
    fresh[1].load_state_dict(state["purify"])
    train(*fresh, 4, start=5)
    assert equal_states(state_of(fresh[0]), state_of(whole[0]))
    assert equal_states(state_of(fresh[1].critic), state_of(whole[1].critic))
