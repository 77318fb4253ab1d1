"""Every file of ``cluster/``: valid for what reads it, and naming only what there is."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from fertiray import config
from fertiray.on_ray.cluster import GROWS_TO
from fertiray.serving.settings import Settings

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"fertiray:{PROJECT['version']}"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
(RAY,) = re.findall(r"^ARG RAY_VERSION=([\d.]+)$", DOCKERFILE, re.MULTILINE)
SECRET = re.compile("TOKEN|PASSWORD|SECRET|ACCESS_KEY|CREDENTIAL")


def load(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


def documents() -> list[dict]:
    return [own for file in KUBERNETES for own in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> list[dict]:
    return [own for own in documents() if own["kind"] == kind]


def every(value, key: str) -> list:
    """All values of a key, however deep."""
    if isinstance(value, list):
        return [found for item in value for found in every(item, key)]
    if not isinstance(value, dict):
        return []
    own = [value[key]] if key in value else []
    return own + [found for item in value.values() for found in every(item, key)]


def check_ray_command(line: str) -> list[str]:
    """Lets Ray's own command line read a ``ray start``; its arguments."""
    import click
    from ray.scripts.scripts import cli

    words = shlex.split(line)
    verb, *arguments = words[words.index("ray") + 1 :]
    command = cli.commands[verb]
    command.parse_args(click.Context(command, info_name=verb), list(arguments))
    return arguments


def check_own_command(line: str) -> None:
    """Lets this project's command line read a command, without running it."""
    import typer

    from fertiray.cli import app

    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "fertiray"]
    group = typer.main.get_command(app)
    assert words[3] in group.commands
    group.commands[words[3]].make_context(words[3], words[4:])


# Images and versions


def test_images_are_pinned_and_match_the_project():
    needed = next(line for line in PROJECT["dependencies"] if line.startswith("ray["))
    assert RAY in SpecifierSet(needed.partition("]")[2])
    (base,) = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    name, tag = base.split(":")
    assert (name, tag) == ("rayproject/ray", "${RAY_VERSION}-py311-gpu")
    assert "3.11" in SpecifierSet(PROJECT["requires-python"])
    assert f"-t {IMAGE} " in DOCKERFILE
    images = [*every(load("docker-compose.yml")["services"], "image"), *every(documents(), "image")]
    images.append(load("aws.yml")["docker"]["image"])
    others = {image for image in images if image != IMAGE}
    assert {image.partition(":")[0] for image in others} == {"prom/prometheus", "grafana/grafana"}
    assert all(re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", image) for image in others)
    assert set(every(documents(), "rayVersion")) == {RAY}


def test_the_image_is_built_from_what_there_is_and_is_not_root():
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert users[-1] == "ray"
    assert not any(SECRET.search(line) for line in DOCKERFILE.splitlines() if "AUTH" not in line)
    let_in = [
        line[1:]
        for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for line in re.findall(r"^COPY --chown=\S+ (.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in let_in
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(let_in)


# Docker Compose

TEXTS = {"type": "array", "items": {"type": "string"}}
HEALTH = {"test": TEXTS, "interval": {}, "timeout": {}, "retries": {"type": "integer"}}
SERVICE = {
    "type": "object",
    "required": ["image", "restart", "cap_drop", "security_opt"],
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string"},
        "build": {"type": "object", "required": ["context", "dockerfile"]},
        "command": {"type": "string"},
        "environment": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "secrets": TEXTS,
        "volumes": TEXTS,
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:"}},
        "shm_size": {"type": "string"},
        "restart": {"const": "unless-stopped"},
        "cap_drop": {"const": ["ALL"]},
        "security_opt": {"const": ["no-new-privileges:true"]},
        "healthcheck": {"type": "object", "additionalProperties": False, "properties": HEALTH},
        "depends_on": {"type": ["array", "object"]},
        "deploy": {"type": "object", "additionalProperties": False, "properties": {"replicas": {}}},
    },
}


def test_compose_is_valid_and_open_to_this_machine_only():
    compose = load("docker-compose.yml")
    assert set(compose) == {"name", "x-ray", "services", "volumes", "secrets"}
    assert set(compose["services"]) == {"ray-head", "ray-worker", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        jsonschema.validate(service, SERVICE)
        for volume in service.get("volumes", []):
            source, _, target = volume.partition(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (CLUSTER / source).exists(), source
                assert volume.endswith(":ro")
            else:
                assert source in compose["volumes"]
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        assert set(service.get("depends_on", [])) <= set(compose["services"]) - {name}
    build = compose["services"]["ray-head"]["build"]
    assert (CLUSTER / build["context"] / build["dockerfile"]).samefile(CLUSTER / "Dockerfile")
    over = load("docker-compose.gpu.yml")["services"]
    (device,) = over["ray-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_compose_starts_ray_with_options_that_ray_has():
    services = load("docker-compose.yml")["services"]
    head = check_ray_command(services["ray-head"]["command"])
    worker = check_ray_command(services["ray-worker"]["command"])
    check_ray_command(shlex.join(services["ray-head"]["healthcheck"]["test"][1:]))
    port = "--metrics-export-port=8080"
    assert "--head" in head
    assert "--address=ray-head:6379" in worker
    assert port in head
    assert port in worker
    (scrape,) = load("prometheus.yml")["scrape_configs"]
    (discovery,) = scrape["dns_sd_configs"]
    assert set(discovery["names"]) == {"ray-head", "ray-worker"}
    assert discovery["port"] == 8080


def test_compose_mounts_every_dashboard_where_grafana_looks():
    grafana = load("docker-compose.yml")["services"]["grafana"]
    provisioning = ROOT / "dashboards" / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "fertiray.yml").read_text())
    place = provider["providers"][0]["options"]["path"]
    mounted = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    boards = {f"../dashboards/{file.name}" for file in (ROOT / "dashboards").glob("*.json")}
    assert {source for source, target in mounted.items() if target.startswith(place)} == boards
    assert mounted["../dashboards/provisioning"] == "/etc/grafana/provisioning"
    assert "PROMETHEUS_URL" in grafana["environment"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_takes_its_settings(tmp_path):
    text = (CLUSTER / "prometheus.yml").read_text()
    compose = load("docker-compose.yml")["services"]["prometheus"]["volumes"]
    assert "../dashboards/alerts.yml:/etc/prometheus/alerts.yml:ro" in compose
    file = tmp_path / "prometheus.yml"
    rules = str(ROOT / "dashboards" / "alerts.yml")
    file.write_text(text.replace("/etc/prometheus/alerts.yml", rules))
    done = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Secrets


def environments() -> list[tuple[str, object]]:
    compose = load("docker-compose.yml")["services"].values()
    found = [pair for own in compose for pair in own.get("environment", {}).items()]
    return found + [
        (own["name"], own.get("value")) for env in every(documents(), "env") for own in env
    ]


def test_secrets_are_named_and_never_written():
    for name, value in environments():
        if SECRET.search(name) and not name.endswith(("_PATH", "__FILE")):
            assert value is None, name
    for secret in load("docker-compose.yml")["secrets"].values():
        place = (CLUSTER / secret["file"]).relative_to(ROOT)
        ignored = (ROOT / ".gitignore").read_text().splitlines()
        assert any(fnmatch.fnmatch(str(place), line.strip("/") + "*") for line in ignored if line)
    assert not of_kind("Secret")
    for file in CLUSTER.rglob("*"):
        if file.is_file() and "secrets" not in file.parts:
            assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN .*PRIVATE KEY", file.read_text())


def test_every_node_wants_a_token():
    assert "RAY_AUTH_MODE=token" in DOCKERFILE
    services = load("docker-compose.yml")["services"]
    for name in ("ray-head", "ray-worker"):
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert load("aws.yml")["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    for options in every(documents(), "authOptions"):
        assert options == {"mode": "token", "secretName": "fertiray-ray-token"}
    clusters = [*every(of_kind("RayCluster"), "spec"), *every(documents(), "rayClusterConfig")]
    assert len(every(documents(), "authOptions")) == len(
        [own for own in clusters if "headGroupSpec" in own]
    )


# ray up


def test_ray_takes_the_aws_cluster():
    from ray.autoscaler._private.util import prepare_config, validate_config

    aws = prepare_config(load("aws.yml"))
    validate_config(aws)
    types = aws["available_node_types"]
    assert aws["head_node_type"] == "head"
    assert types["head"]["resources"]["CPU"] == 0
    workers = {name: own for name, own in types.items() if name != "head"}
    assert all(own["min_workers"] == 0 < own["max_workers"] for own in workers.values())
    assert all(own["resources"]["GPU"] == 1 for own in workers.values())
    markets = [own["node_config"].get("InstanceMarketOptions") for own in workers.values()]
    assert {"MarketType": "spot"} in markets
    assert all("IamInstanceProfile" in own["node_config"] for own in types.values())
    head, worker = (
        next(line for line in aws[key] if "ray start" in line)
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
    )
    for line in (head, worker):
        check_ray_command(line.partition(";")[2])
    grows = json.loads(re.findall(rf"{GROWS_TO}='([^']+)'", head)[0])
    each = workers["gpu_spot"]["resources"]
    assert grows == {name: aws["max_workers"] * each[name] for name in ("CPU", "GPU")}


# Kubernetes: the pods by Kubernetes' own schema, the rest by the fields of KubeRay 1.6's reference.

RAY_CLUSTER = {
    "type": "object",
    "required": ["rayVersion", "headGroupSpec"],
    "additionalProperties": False,
    "properties": {
        "rayVersion": {"type": "string"},
        "authOptions": {
            "additionalProperties": False,
            "properties": {"mode": {"enum": ["token"]}, "secretName": {"type": "string"}},
        },
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": {
            "additionalProperties": False,
            "properties": {
                "idleTimeoutSeconds": {"type": "integer"},
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
            },
        },
        "headGroupSpec": {
            "additionalProperties": False,
            "required": ["rayStartParams", "template"],
            "properties": {
                "rayStartParams": {"additionalProperties": {"type": "string"}},
                "template": {"type": "object"},
            },
        },
        "workerGroupSpecs": {
            "type": "array",
            "items": {
                "additionalProperties": False,
                "required": ["groupName", "rayStartParams", "template"],
                "properties": {
                    "groupName": {"type": "string"},
                    "replicas": {"type": "integer"},
                    "minReplicas": {"type": "integer"},
                    "maxReplicas": {"type": "integer"},
                    "rayStartParams": {"additionalProperties": {"type": "string"}},
                    "template": {"type": "object"},
                },
            },
        },
    },
}
SPECS = {
    "RayCluster": RAY_CLUSTER,
    "RayJob": {
        "required": ["entrypoint"],
        "additionalProperties": False,
        "properties": {
            "clusterSelector": {"additionalProperties": {"type": "string"}},
            "entrypoint": {"type": "string"},
            "submitterPodTemplate": {"type": "object"},
        },
    },
    "RayService": {
        "required": ["serveConfigV2", "rayClusterConfig"],
        "additionalProperties": False,
        "properties": {
            "upgradeStrategy": {"properties": {"type": {"enum": ["NewCluster", "None"]}}},
            "serveConfigV2": {"type": "string"},
            "rayClusterConfig": RAY_CLUSTER,
        },
    },
    "PodMonitor": {
        "required": ["selector", "podMetricsEndpoints"],
        "additionalProperties": False,
        "properties": {
            "selector": {"type": "object"},
            "podMetricsEndpoints": {
                "type": "array",
                "items": {
                    "required": ["port"],
                    "additionalProperties": False,
                    "properties": {
                        "port": {"type": "string"},
                        "interval": {"pattern": r"^\d+s$"},
                        "relabelings": {"type": "array"},
                    },
                },
            },
        },
    },
}
API = {"RayCluster": "ray.io/v1", "RayJob": "ray.io/v1", "RayService": "ray.io/v1"}


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.stem)
def test_kubernetes_takes_every_object(file):
    for own in yaml.safe_load_all(file.read_text()):
        if own["kind"] not in SPECS:
            kubernetes_validate.validate(own, "1.33", strict=True)
            continue
        wanted = API.get(own["kind"], "monitoring.coreos.com/v1")
        assert own["apiVersion"] == wanted
        assert {"name", "generateName"} & set(own["metadata"])
        jsonschema.validate(own["spec"], SPECS[own["kind"]])
        for key in ("template", "submitterPodTemplate"):
            for template in every(own, key):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
                kubernetes_validate.validate(pod, "1.33", strict=True)
                assert template["spec"]["securityContext"]["runAsNonRoot"] is True
                for container in template["spec"]["containers"]:
                    rights = container["securityContext"]
                    assert rights["allowPrivilegeEscalation"] is False
                    assert rights["capabilities"] == {"drop": ["ALL"]}
                    assert set(container["resources"]) == {"requests", "limits"}


def test_all_that_was_asked_for_is_there():
    kinds = sorted(own["kind"] for own in documents())
    assert kinds == [
        *("PersistentVolumeClaim", "PodMonitor", "RayCluster"),
        *("RayJob", "RayJob", "RayJob", "RayService"),
    ]


def test_rays_parameters_are_options_of_ray_start():
    for parameters in every(documents(), "rayStartParams"):
        check_ray_command("ray start " + " ".join(f"--{k}={v}" for k, v in parameters.items()))


def test_the_cluster_says_how_far_it_grows():
    (cluster,) = of_kind("RayCluster")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    grows = json.loads({own["name"]: own["value"] for own in head["env"]}[GROWS_TO])
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    each = {"CPU": int(limits["cpu"]), "GPU": int(limits["nvidia.com/gpu"])}
    assert grows == {name: group["maxReplicas"] * number for name, number in each.items()}
    assert group["minReplicas"] == 0


def test_jobs_run_commands_that_there_are_on_the_cluster_that_there_is():
    (cluster,) = of_kind("RayCluster")
    verbs = set()
    for job in of_kind("RayJob"):
        check_own_command(job["spec"]["entrypoint"])
        verbs.add(shlex.split(job["spec"]["entrypoint"])[3])
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert verbs == {"score", "train", "tune"}


def test_the_service_is_one_that_serve_takes():
    from ray.serve.schema import ServeDeploySchema

    (service,) = of_kind("RayService")
    schema = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (app,) = schema.applications
    module, _, name = app.import_path.partition(":")
    assert callable(getattr(import_module(module), name))
    settings = config.load(Settings, app.args, "args")
    (pod,) = every(service["spec"]["rayClusterConfig"], "containers")[0]
    mounted = {own["mountPath"] for own in pod["volumeMounts"]}
    assert settings.state in mounted
    assert str(Path(settings.tokens).parent) in mounted
    assert schema.http_options.port in {own["containerPort"] for own in pod["ports"]}
    (claim,) = of_kind("PersistentVolumeClaim")
    assert every(service, "claimName") == [claim["metadata"]["name"]]


def test_prometheus_scrapes_a_port_that_ray_pods_have():
    (monitor,) = of_kind("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for own in [*of_kind("RayCluster"), *of_kind("RayService")]:
        for containers in every(own, "containers"):
            ports = {port["name"]: port["containerPort"] for port in containers[0]["ports"]}
            assert ports[endpoint["port"]] == 8080
