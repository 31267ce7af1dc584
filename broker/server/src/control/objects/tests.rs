use super::*;

fn options(directory: &FilePath) -> ObjectStoreOptions {
    ObjectStoreOptions {
        location: ObjectLocation::Directory(directory.to_path_buf()),
        endpoint: None,
        region: None,
        access_key_file: None,
        secret_key_file: None,
        allow_http: false,
        timeout: Duration::from_secs(10),
    }
}

fn check(story: impl AsyncFnOnce(ObjectClient, &FilePath)) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("objects");
    fs::create_dir(&root).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = open(&options(&root), runtime.handle()).unwrap();
    runtime.block_on(story(client, &root));
}

async fn put(client: &ObjectClient, key: &str, content: &[u8], length: u64) -> Result<(), ObjectError> {
    let mut upload = client.begin(key, length)?;
    for piece in content.chunks(1 << 20) {
        upload.add(Bytes::copy_from_slice(piece)).await?;
    }
    upload.finish().await
}

#[test]
fn an_object_is_read_as_it_was_written_and_goes() {
    check(async |client, _| {
        for (key, length) in [("t-0/small.tgs", 5000), ("t-0/large.tgs", 20 << 20)] {
            let content: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
            put(&client, key, &content, content.len() as u64).await.unwrap();
            assert_eq!(client.read(key, 4096, 500).await.unwrap(), content[4096..4596]);
            let end = content.len() - 10;
            assert_eq!(client.read(key, end as u64, 100).await.unwrap(), content[end..], "up to its end");
        }
        assert_eq!(client.list("t-0").await.unwrap().len(), 2);
        assert_eq!(client.list("t-1").await.unwrap(), Vec::<String>::new());
        client.remove("t-0/small.tgs").await.unwrap();
        client.remove("t-0/small.tgs").await.unwrap();
        assert_eq!(client.list("t-0").await.unwrap(), ["t-0/large.tgs"]);
        let error = client.read("t-0/small.tgs", 0, 10).await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::NotFound, "{error}");
    });
}

#[test]
fn of_an_upload_that_is_given_up_nothing_is_seen() {
    check(async |client, root| {
        for length in [5000, 20 << 20] {
            put(&client, "t-0/part.tgs", &vec![1; 3000], length).await.unwrap_err();
            let mut upload = client.begin("t-0/dropped.tgs", length).unwrap();
            upload.add(Bytes::from_static(b"some")).await.unwrap();
            drop(upload);
        }
        // What a killed process leaves.
        fs::create_dir_all(root.join("t-0")).unwrap();
        fs::write(root.join("t-0/killed.tgs#1"), b"some").unwrap();
        assert_eq!(client.list("t-0").await.unwrap(), Vec::<String>::new());
        assert!(!root.join("t-0/killed.tgs#1").exists(), "it is nobody's");
    });
}

#[test]
fn objects_of_a_directory_that_is_not_mounted_are_not_gone() {
    check(async |client, root| {
        put(&client, "t-0/a.tgs", b"content", 7).await.unwrap();
        let away = root.with_extension("away");
        fs::rename(root, &away).unwrap();
        let error = client.read("t-0/a.tgs", 0, 7).await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Unavailable, "{error}");
        assert!(client.list("t-0").await.is_err() && client.remove("t-0/a.tgs").await.is_err());
        fs::rename(&away, root).unwrap();
        // Reads fail at once for a moment; what else succeeds ends it.
        assert_eq!(client.list("t-0").await.unwrap(), ["t-0/a.tgs"]);
        assert_eq!(client.read("t-0/a.tgs", 0, 7).await.unwrap(), "content");
    });
}

#[test]
fn a_directory_that_is_not_there_is_named_with_what_to_do() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = open(&options(FilePath::new("/nowhere/objects")), runtime.handle()).unwrap_err();
    assert!(error.to_string().ends_with("Mount it, or create it with: mkdir -p /nowhere/objects"), "{error}");
}
