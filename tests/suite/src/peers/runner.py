# Runs rdma-core's own tests, unchanged, with a process for each module, and prints a line of JSON for each
# test. Arguments: the folder that holds `tests`, the device, the index of its GID, seconds for a module, and
# the modules; none: all.
#
# unittest's own text can't be read reliably: what a test or a library prints stands in the middle of it.
import json
import os
import signal
import sys
import unittest

folder, device, gid, limit, *wanted = sys.argv[1:]
# The tests name themselves both ways.
sys.path[:0] = [folder, folder + "/tests"]
sys.argv[1:] = ["--dev", device, "--gid", gid]

from args_parser import parser

parser.parse_args()
import tests


def say(**what):
    # A line of its own, whatever was printed before.
    print("\n" + json.dumps(what), flush=True)


class Result(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        say(t="start", id=test.id())

    def end(self, test, result, why=""):
        say(t="test", id=test.id(), result=result, why=why)

    def addSuccess(self, test):
        self.end(test, "passed")

    def addExpectedFailure(self, test, err):
        self.end(test, "passed")

    def addSkip(self, test, reason):
        self.end(test, "skipped", reason)

    def addFailure(self, test, err):
        self.end(test, "failed", repr(err[1]))

    addError = addFailure

    def addUnexpectedSuccess(self, test):
        self.end(test, "failed", "it was expected to fail")

    def addSubTest(self, test, subtest, err):
        if err:
            self.end(test, "failed", repr(err[1]))


for module in tests.__test_modules__:
    name = module.__name__.rpartition(".")[2]
    if wanted and name not in wanted:
        continue
    pid = os.fork()
    if not pid:
        signal.alarm(int(limit))
        unittest.defaultTestLoader.loadTestsFromModule(module).run(Result())
        # The interpreter ends as usual, and with it what libraries do at exit.
        break
    _, status = os.waitpid(pid, 0)
    say(t="end", module=name, status=os.waitstatus_to_exitcode(status))
