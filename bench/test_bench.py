"""The pure parts, and runs against a load that is made up: `python3 -m unittest` in this directory."""
import contextlib
import io
import unittest
import xml.etree.ElementTree

import charts
import document
import run
import targets
from contender import Contender, Floor, Running, Setup
from machine import cpu_model
from measure import Failed, groups_of, run_group
from results import Results, number, rotated, spread
from scenarios import SCENARIOS
from scenarios.base import Bars, Case, Scenario, Step, load
from tables import CPU, Column, table


def result(server, round, labels=None, **figures):
    return {"scenario": "fanout", "labels": labels or {"sockets": 10}, "server": server, "round": round, "figures": figures}


def ran(results, others=0.01):
    return {"results": results, "others": {"begin": others, "end": 0.0}}


class Made(Contender):
    """A server without a process."""

    def __init__(self, name, peer=False):
        self.name, self.peer, self.running = name, peer, 0

    def can(self, setup):
        return not self.peer or setup in (Setup(), Setup(deflate=True))

    def start(self, setup):
        self.running += 1
        made = self

        class Ends(Running):
            def end(self):
                made.running -= 1

            def told(self):
                return {"history_reads": 1}

        return Ends([], ["--path", "/"])


def made_load(words, running):
    """What each command of fanfare-load prints, by the contract in its --help."""
    figures = {
        "fanout": {"cpu_us_per_delivery": 5.0, "latency_p50_ms": 2.0, "latency_p99_ms": 4.0, "idle_bytes_per_socket": 900},
        "rate": {"cpu_us_per_delivery": 5.0, "latency_p50_ms": 2.0, "latency_p99_ms": 4.0, "latency_max_ms": 9.0, "server_load": 0.4, "lost": 0},
        "saturate": {"deliveries_per_s": 900_000, "deliveries_per_cpu_s": 1_000_000, "latency_p99_ms": 80.0, "lost": 0},
        "handshake": {"cpu_us_per_handshake": 60.0, "handshakes_per_s": 9_000, "cpu_us_per_close": 10.0},
        "storm": {"seconds": 1.5, "cpu_s": 1.0, "recovered": 5_000, "lost": 0},
        "idle": {"idle_bytes_per_socket": 1_300},
        "presence": {"cpu_us_per_change": 30.0, "changes": 1_000, "events": 20_000},
    }
    return figures[words[0]]


class ResultsTest(unittest.TestCase):
    def test_ratios_are_of_the_same_round(self):
        runs = [result("floor", 0, cpu=2), result("node", 0, cpu=3), result("floor", 1, cpu=4), result("node", 1, cpu=4), result("node", 2, cpu=9)]
        results = Results(runs)
        self.assertEqual(results.ratios({"sockets": 10}, "node", "cpu"), [1.5, 1.0])
        self.assertEqual(results.ratio({"sockets": 10}, "node", "cpu"), 1.25)
        self.assertEqual(results.median({"sockets": 10}, "node", "cpu"), 4)

    def test_what_failed_has_no_figures_and_says_why(self):
        results = Results([{"scenario": "fanout", "labels": {}, "server": "nats", "round": 0, "error": "it hung up"}])
        self.assertIsNone(results.median({}, "nats", "cpu"))
        self.assertEqual(results.failed({}, "nats"), "it hung up")
        self.assertIn("failed: it hung up", table(results, [CPU]))

    def test_figures_for_people(self):
        self.assertEqual([number(None), number(0.456), number(12_345), number(4_500_000)], ["–", "0.46", "12,345", "4.50 M"])
        self.assertEqual([spread([1]), spread([3, 1])], ["–", "1.00–3.00"])

    def test_who_begins_changes_from_round_to_round(self):
        self.assertEqual([rotated("abc", round) for round in range(4)], ["abc", "bca", "cab", "abc"])


class TableTest(unittest.TestCase):
    def test_a_column_that_nobody_has_is_left_out(self):
        text = table(Results([result("floor", 0, cpu_us_per_delivery=4.0), result("fanfare", 0, cpu_us_per_delivery=3.0)]), [CPU, Column("lost", "lost")])
        self.assertEqual(text.splitlines()[0], "| sockets | server | CPU per delivery | × floor | spread |")
        self.assertEqual(text.splitlines()[3], "| 10 | **fanfare** | 3.00 µs | 0.75 | – |")


class ChartTest(unittest.TestCase):
    def test_a_chart_is_well_formed_and_names_every_server(self):
        results = Results([result(server, round, cpu=cost) for round in range(3) for server, cost in [("floor", 4.0), ("fanfare", 2.0), ("a<b", 9.0 + round)]])
        for times_floor in [True, False]:
            drawn = charts.svg(Bars("Cost", "cpu", times_floor=times_floor, unit="µs"), results)
            texts = [node.text for node in xml.etree.ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
            self.assertLessEqual({"Cost", "10 sockets", "fanfare", "a<b"}, set(texts))

    def test_twice_and_half_are_as_far_from_the_floor(self):
        scale = charts.Logarithmic([0.25, 4], 100, 500)
        self.assertAlmostEqual(scale.at(2) - scale.at(1), scale.at(1) - scale.at(0.5))

    def test_one_server_is_no_chart(self):
        self.assertEqual(charts.panels(Bars("Cost", "cpu"), Results([result("floor", 0, cpu=1)])), [])


class DocumentTest(unittest.TestCase):
    def test_only_what_is_between_the_markers_changes(self):
        page = "a\n<!-- begin x -->\nold\n<!-- end -->\nb\n<!-- begin y -->\nkept\n<!-- end -->\n"
        placed = document.placed(page, "x", r"new \1")
        self.assertEqual(placed, "a\n<!-- begin x -->\nnew \\1\n<!-- end -->\nb\n<!-- begin y -->\nkept\n<!-- end -->\n")
        with self.assertRaises(document.NoPlace):
            document.placed(page, "z", "")

    def test_the_page_has_a_place_for_everything(self):
        page = document.PAGE.read_text()
        for name in ["machine", "targets", *(scenario.name for scenario in SCENARIOS)]:
            document.placed(page, name, "")


class MeasureTest(unittest.TestCase):
    def test_every_scenario_runs_and_can_be_read(self):
        everybody = [Made("floor"), Made("fanfare"), Made("nats", peer=True), Made("nchan", peer=True)]
        results = []
        for scenario in SCENARIOS:
            for quick in [True, False]:
                found = []
                for group in groups_of(scenario.cases(everybody, quick)):
                    self.assertEqual(len({case.name for case in group}), len(group), f"{scenario.name}: two of one name in {group[0].labels}")
                    found += run_group(scenario, [case for case in group if "joined" not in case.name], 2, 1, made_load)
                self.assertEqual([run["error"] for run in found if "error" in run], [])
                self.assertIn("fanfare", scenario.render(Results(found)))
                for chart in [] if quick else scenario.charts:
                    self.assertTrue(charts.panels(chart, Results(found)), f"{scenario.name}: {chart.title}")
            results += found
        self.assertEqual([made.running for made in everybody], [0] * 4)
        self.assertNotIn(targets.NOT_MEASURED, targets.table(ran(results)))

    def test_a_case_that_fails_ends_its_server_and_leaves_the_others(self):
        good, bad = Made("floor"), Made("fanfare")

        def load_of(words, running):
            raise Failed("no")

        with contextlib.redirect_stderr(io.StringIO()):
            results = run_group(Scenario, [Case(good, {}, [Step(["fanout"])]), Case(bad, {}, [Step(["fanout"])])], 1, 1, load_of)
        self.assertEqual([result["error"] for result in results], ["no", "no"])
        self.assertEqual((good.running, bad.running), (0, 0))

    def test_a_step_may_follow_from_the_one_before(self):
        asked = []

        def load_of(words, running):
            asked.append(words)
            return {"deliveries_per_s": 100_000}

        saturation = next(scenario for scenario in SCENARIOS if scenario.name == "saturation")
        case = saturation.cases([Made("fanfare")], quick=True)[0]
        run_group(saturation, [case], 1, 1, load_of)
        self.assertEqual([words[0] for words in asked], ["saturate", "rate", "rate"])
        self.assertEqual([words[words.index("--rate") + 1] for words in asked[1:]], [50, 80])

    def test_options_of_the_load(self):
        self.assertEqual(load("idle", sockets=3, sse=True, slow=None, deflate=False), ["idle", "--sockets", 3, "--sse"])


class TargetTest(unittest.TestCase):
    def test_a_target_is_met_missed_or_not_measured(self):
        labels = {"bytes": 128, "sockets": 10_000, "burst": 1}
        runs = [result("floor", 0, labels, cpu_us_per_delivery=4.0), result("fanfare", 0, labels, cpu_us_per_delivery=5.0)]
        lines = targets.table(ran(runs)).splitlines()
        self.assertIn("| ≤ 1.15 × floor | 1.25 | **missed** |", lines[2])
        self.assertIn("not measured", lines[3])

    def test_time_is_not_judged_on_a_busy_machine(self):
        labels = {"sockets": 15_000}
        runs = [result(server, 0, labels, seconds=took) | {"scenario": "storm"} for server, took in [("floor", 1.0), ("fanfare", 1.2)]]
        verdicts = [targets.table(ran(runs, others), all_of_them=False).splitlines()[2] for others in [0.05, 0.9]]
        self.assertTrue(verdicts[0].endswith("| 1.20 | met |"), verdicts)
        self.assertTrue(verdicts[1].endswith(f"| 1.20 | {targets.BUSY} |"), verdicts)

    def test_a_group_that_is_measured_again_keeps_its_place(self):
        few, many = {"sockets": 10}, {"sockets": 20}
        first = {"results": [result("floor", 0, few, cpu=1.0), result("floor", 0, many, cpu=1.0)], "seconds": {"fanout": 4}, "begun": "a"}
        again = {"results": [result("floor", 0, few, cpu=2.0), result("floor", 1, few, cpu=3.0)], "seconds": {"fanout": 2}, "begun": "b"}
        both = run.joined(first, again)
        self.assertEqual([each["figures"]["cpu"] for each in both["results"]], [2.0, 3.0, 1.0])
        self.assertEqual((both["seconds"], both["begun"]), ({"fanout": 6}, "b"))

    def test_a_peer_that_needs_less_is_told(self):
        runs = [result("fanfare", 0, cpu_us_per_delivery=4.0), result("nats", 0, cpu_us_per_delivery=3.0)]
        self.assertEqual(targets.losses(targets.Scenarios(runs)), [("fanout", {"sockets": 10}, "nats", "cpu_us_per_delivery")])


class MachineTest(unittest.TestCase):
    def test_a_model_that_is_hidden(self):
        self.assertEqual(cpu_model("processor: 0\nmodel name\t: Some CPU @ 2 GHz\n\nprocessor: 1\n"), "Some CPU @ 2 GHz")
        self.assertEqual(cpu_model("cpu family: 6\nmodel: 85\n"), "family 6, model 85")


class FloorTest(unittest.TestCase):
    def test_the_floor_knows_no_presence(self):
        self.assertFalse(Floor().can(Setup(presence=True)))


if __name__ == "__main__":
    unittest.main()
