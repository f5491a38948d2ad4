from dataclasses import asdict

from tools.bench_parts.tables import Row, Table
from tools.replicate_parts.goals import against


def steps(*tables):
    return [{"tables": [asdict(table) for table in tables]}]


def test_the_best_row_stands_beside_its_goal():
    fast = Table("A step of SimSiam, batch 512", "", [
        Row("torch alone, tricks on", [0.001], images=512),
        Row("ours, tricks on", [0.0125, 0.0128, 0.1], images=512),
        Row("ours, tricks on, speed.cuda_graphs=true", absent="failed: RuntimeError: no graph"),
    ])  # fmt: skip
    slow = Table("A step of SimSiam, batch 64", "", [Row("ours, tricks on", [0.0064], images=64)])
    where = Table("Where the time of a step goes, batch 512", "", [
        Row("ours, tricks on", facts={"data wait": "0.3 (3%)"}),
        Row("ours, tricks on, speed.cuda_graphs=true", facts={"data wait": "0.1 (1%)"}),
    ])  # fmt: skip
    first = Table("Test images, knn_top1, in per cent", "", [Row("SimSiam", facts={"first 50 steps after": "12 s"})])
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in against("cuda", steps(fast, slow, where, first)).splitlines()
    ]
    found = {line[0]: line[1:] for line in lines[2:]}
    assert found == {
        "SimSiam, batch 512": [">= 40,000 images/s", "40,000 images/s", "yes"],
        "SimSiam, batch 64": [">= 20,000 images/s", "10,000 images/s", "no"],
        "CE + RGRL, batch 512": [">= 55,000 images/s", "not measured", ""],
        "waiting for data, SimSiam, batch 512": ["< 2 %", "1 %", "yes"],
        "start of SimSiam, warm caches": ["< 15 s", "12 s", "yes"],
    }


def test_a_cpu_has_none():
    assert against("cpu", steps()) == ""
