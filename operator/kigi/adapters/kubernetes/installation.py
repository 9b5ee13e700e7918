"""The API resources that only ``kigi doctor`` and ``kigi report`` read."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import WORKLOAD, Resource
from kigi.domain.names import LABEL_DEPLOYMENT

DEFINITION = Resource(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
VALIDATING_POLICY = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", namespaced=False
)
POLICY_BINDING = Resource(
    "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicyBinding",
    "validatingadmissionpolicybindings",
    namespaced=False,
)
CSI_DRIVER = Resource("storage.k8s.io/v1", "CSIDriver", "csidrivers", namespaced=False)
OPERATOR = WORKLOAD
"""Deployments in Kigi's namespace."""
DAEMONS = Resource("apps/v1", "DaemonSet", "daemonsets")
"""DaemonSets in Kigi's namespace."""
POD = Resource("v1", "Pod", "pods")
"""Pods in Kigi's namespace."""
VM_POD = Resource("v1", "Pod", "pods", selector=LABEL_DEPLOYMENT)
"""Pods of the VMs that Kigi has created, in all namespaces."""
ACCESS_REVIEW = Resource("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False)
SELF_ACCESS_REVIEW = Resource(
    "authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False
)
