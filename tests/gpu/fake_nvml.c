/* A stand-in for NVIDIA's libnvidia-ml.so.1: two cards, and failures as the script orders them.

   The script is the file that FAKE_NVML_SCRIPT names; it is read anew at each call. Its lines:

       fail FUNCTION DEVICE CODE    FUNCTION or DEVICE may be "*"; functions without a device have -1
       used DEVICE MIB              memory in use on that card
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define CARDS 2
#define MIB (1024ULL * 1024ULL)

typedef struct { const char *name, *uuid; unsigned bus; int major, minor; unsigned long long total_mib, used_mib; } card_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info_t;

static const card_t cards[CARDS] = {
    {"NVIDIA GeForce RTX 2060 SUPER", "GPU-20600000-0000-0000-0000-000000000001", 0x01, 7, 5, 8192, 342},
    {"NVIDIA GeForce GTX 1050", "GPU-10500000-0000-0000-0000-000000000002", 0x0A, 6, 1, 2048, 5},
};

static int matches(const char *pattern, const char *text) {
    return strcmp(pattern, "*") == 0 || strcmp(pattern, text) == 0;
}

static int failure(const char *function, int device) {
    const char *path = getenv("FAKE_NVML_SCRIPT");
    FILE *script = path ? fopen(path, "r") : NULL;
    char line[256], wanted[64], on[16], index[16];
    int code, result = OK;
    snprintf(index, sizeof index, "%d", device);
    while (script && result == OK && fgets(line, sizeof line, script))
        if (sscanf(line, "fail %63s %15s %d", wanted, on, &code) == 3 && matches(wanted, function) && matches(on, index))
            result = code;
    if (script) fclose(script);
    return result;
}

static unsigned long long used_mib(int device) {
    const char *path = getenv("FAKE_NVML_SCRIPT");
    FILE *script = path ? fopen(path, "r") : NULL;
    char line[256];
    int on;
    unsigned long long mib, result = cards[device].used_mib;
    while (script && fgets(line, sizeof line, script))
        if (sscanf(line, "used %d %llu", &on, &mib) == 2 && on == device) result = mib;
    if (script) fclose(script);
    return result;
}

/* Handles are the card's number plus one, so that none is NULL. */
static int device_of(void *handle) { return (int)(size_t)handle - 1; }

#define ANSWER(function, device)                    \
    do {                                            \
        int code_ = failure(function, device);      \
        if (code_ != OK) return code_;              \
    } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; ANSWER("nvmlInitWithFlags", -1); return OK; }
int nvmlShutdown(void) { ANSWER("nvmlShutdown", -1); return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error that only the driver knows"; }

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    ANSWER("nvmlSystemGetDriverVersion", -1);
    snprintf(version, size, "580.95.05");
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    ANSWER("nvmlSystemGetCudaDriverVersion", -1);
    *version = 13000;
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    ANSWER("nvmlDeviceGetCount", -1);
    *count = CARDS;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index >= CARDS) return INVALID_ARGUMENT;
    ANSWER("nvmlDeviceGetHandleByIndex", (int)index);
    *handle = (void *)(size_t)(index + 1);
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size) {
    ANSWER("nvmlDeviceGetUUID", device_of(handle));
    snprintf(uuid, size, "%s", cards[device_of(handle)].uuid);
    return OK;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
    ANSWER("nvmlDeviceGetName", device_of(handle));
    snprintf(name, size, "%s", cards[device_of(handle)].name);
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    ANSWER("nvmlDeviceGetCudaComputeCapability", device_of(handle));
    *major = cards[device_of(handle)].major;
    *minor = cards[device_of(handle)].minor;
    return OK;
}

int nvmlDeviceGetPciInfo_v3(void *handle, pci_info_t *info) {
    ANSWER("nvmlDeviceGetPciInfo", device_of(handle));
    memset(info, 0, sizeof *info);
    info->bus = cards[device_of(handle)].bus;
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "0000:%02X:00.0", info->bus);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    ANSWER("nvmlDeviceGetMemoryInfo", device_of(handle));
    memory->total = cards[device_of(handle)].total_mib * MIB;
    memory->used = used_mib(device_of(handle)) * MIB;
    memory->free = memory->total - memory->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) {
    ANSWER("nvmlDeviceGetUtilizationRates", device_of(handle));
    rates->gpu = 17;
    rates->memory = 4;
    return OK;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) {
    (void)sensor;
    ANSWER("nvmlDeviceGetTemperature", device_of(handle));
    *celsius = 41;
    return OK;
}
