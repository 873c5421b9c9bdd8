"""What a signal does beside training; what it does to a run: test_kills.py and test_resumable.py."""

import os
import signal
import time

from transformers import TrainerControl, TrainerState, TrainingArguments

from smsa.training.callbacks import StopOnSignal


def test_a_second_ctrl_c_ends_at_once():
    pid = os.fork()
    if not pid:
        stop = StopOnSignal()
        stop.on_train_begin(None, TrainerState(), TrainerControl())
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130


def test_the_signals_are_given_back_and_what_was_ignored_stays_so(tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as nohup does with SIGHUP
    try:
        interrupt = signal.getsignal(signal.SIGINT)
        stop, control = StopOnSignal(), TrainerControl()
        args = TrainingArguments(output_dir=str(tmp_path))
        stop.on_train_begin(args, TrainerState(), control)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == stop.receive
        stop.on_train_end(args, TrainerState(), control)
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
