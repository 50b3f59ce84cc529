/* A stand-in for NVIDIA's libnvidia-ml.so.1: two cards, and failures as the script orders them.

   The script is the file that FAKE_NVML_SCRIPT names; it is read anew at each call. Its lines:

       fail FUNCTION DEVICE CODE    FUNCTION or DEVICE may be "*"; functions without a device have -1
       used DEVICE MIB              memory in use on that card, processes not counted
       process DEVICE PID MIB       a process that computes there; MIB -1: the driver does not tell
       reasons DEVICE BITS          why its clocks are low
       cards COUNT                  so many are to be seen
       delay MILLISECONDS           each look at the memory takes so long

   A second file, of that name with ".taken" behind it, is read as well: for whoever takes memory by himself.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define INSUFFICIENT_SIZE 7
#define CARDS 2
#define MIB (1024ULL * 1024ULL)

typedef struct { const char *name, *uuid; unsigned bus; int major, minor; unsigned long long total_mib, used_mib; unsigned limit_w; } card_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info_t;

static const card_t cards[CARDS] = {
    {"NVIDIA GeForce RTX 2060 SUPER", "GPU-20600000-0000-0000-0000-000000000001", 0x01, 7, 5, 8192, 342, 175},
    {"NVIDIA GeForce GTX 1050", "GPU-10500000-0000-0000-0000-000000000002", 0x0A, 6, 1, 2048, 5, 75},
};

typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

static int matches(const char *pattern, const char *text) {
    return strcmp(pattern, "*") == 0 || strcmp(pattern, text) == 0;
}

/* The next line of the two files; 0 after the last one, which closes them. */
typedef struct { FILE *file; int part; char line[256]; } script_t;

static int next_line(script_t *script) {
    const char *path = getenv("FAKE_NVML_SCRIPT");
    char name[4096];
    while (path && script->part < 3) {
        if (script->file && fgets(script->line, sizeof script->line, script->file)) return 1;
        if (script->file) fclose(script->file);
        snprintf(name, sizeof name, "%s%s", path, script->part == 0 ? "" : ".taken");
        script->file = script->part < 2 ? fopen(name, "r") : NULL;
        script->part++;
    }
    return 0;
}

static int failure(const char *function, int device) {
    script_t script = {0};
    char wanted[64], on[16], index[16];
    int code, result = OK;
    snprintf(index, sizeof index, "%d", device);
    while (next_line(&script))
        if (sscanf(script.line, "fail %63s %15s %d", wanted, on, &code) == 3 && result == OK && matches(wanted, function) &&
            matches(on, index))
            result = code;
    return result;
}

/* The last number that a line "WORD DEVICE NUMBER" gives. */
static long long ordered(const char *word, int device, long long otherwise) {
    script_t script = {0};
    char found[16];
    int on;
    long long number, result = otherwise;
    while (next_line(&script))
        if (sscanf(script.line, "%15s %d %lld", found, &on, &number) == 3 && strcmp(found, word) == 0 && on == device)
            result = number;
    return result;
}

static unsigned card_count(void) {
    script_t script = {0};
    unsigned result = CARDS;
    while (next_line(&script)) sscanf(script.line, "cards %u", &result);
    return result;
}

static void dawdle(void) {
    script_t script = {0};
    unsigned milliseconds = 0;
    while (next_line(&script)) sscanf(script.line, "delay %u", &milliseconds);
    usleep(milliseconds * 1000);
}

/* Fills in up to ``room`` of the processes on a card; how many there are. */
static unsigned processes_on(int device, process_t *processes, unsigned room) {
    script_t script = {0};
    unsigned pid, count = 0;
    int on;
    long long mib;
    while (next_line(&script))
        if (sscanf(script.line, "process %d %u %lld", &on, &pid, &mib) == 3 && on == device) {
            if (count < room)
                processes[count] = (process_t){pid, mib < 0 ? ~0ULL : mib * MIB, 0xFFFFFFFF, 0xFFFFFFFF};
            count++;
        }
    return count;
}

static unsigned long long used_mib(int device) {
    process_t processes[64];
    unsigned count = processes_on(device, processes, 64);
    unsigned long long result = ordered("used", device, cards[device].used_mib);
    for (unsigned i = 0; i < count && i < 64; i++)
        if (processes[i].used != ~0ULL) result += processes[i].used / MIB;
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
    *count = card_count();
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index >= card_count()) return INVALID_ARGUMENT;
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
    dawdle();
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

int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    ANSWER("nvmlDeviceGetPowerUsage", device_of(handle));
    *milliwatts = 38250;
    return OK;
}

int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *milliwatts) {
    ANSWER("nvmlDeviceGetEnforcedPowerLimit", device_of(handle));
    *milliwatts = cards[device_of(handle)].limit_w * 1000;
    return OK;
}

/* Type 0 is the graphics clock, 2 the memory's. */
int nvmlDeviceGetClockInfo(void *handle, int type, unsigned *mhz) {
    ANSWER("nvmlDeviceGetClockInfo", device_of(handle));
    *mhz = type == 2 ? 405 : 300;
    return OK;
}

int nvmlDeviceGetMaxClockInfo(void *handle, int type, unsigned *mhz) {
    ANSWER("nvmlDeviceGetMaxClockInfo", device_of(handle));
    *mhz = type == 2 ? 7001 : 2100;
    return OK;
}

static int clock_reasons(void *handle, unsigned long long *bits) {
    *bits = ordered("reasons", device_of(handle), 1);
    return OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *bits) {
    ANSWER("nvmlDeviceGetCurrentClocksEventReasons", device_of(handle));
    return clock_reasons(handle, bits);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *bits) {
    ANSWER("nvmlDeviceGetCurrentClocksThrottleReasons", device_of(handle));
    return clock_reasons(handle, bits);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *processes) {
    ANSWER("nvmlDeviceGetComputeRunningProcesses", device_of(handle));
    unsigned room = processes ? *count : 0;
    *count = processes_on(device_of(handle), processes, room);
    return *count > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *processes) {
    (void)processes;
    ANSWER("nvmlDeviceGetGraphicsRunningProcesses", device_of(handle));
    *count = 0;
    return OK;
}
