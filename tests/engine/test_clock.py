from dist_rmd.engine.clock import Clock


def test_counts_steps_through_epochs_and_comes_back():
    clock = Clock()
    for _ in range(2):
        clock.tick()
        clock.tick()
        clock.next_epoch()
    clock.tick()
    assert (clock.step, clock.epoch, clock.batch) == (5, 2, 1)
    other = Clock()
    other.load_state_dict(clock.state_dict())
    assert other == clock
